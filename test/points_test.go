package test

// point is a step at which a process is killed, and the operations that reach it.
type point struct {
	name       string
	operations []string
}

// points are all failpoints of the program: TestCrashPoints_AllAreKilledAt finds the one that is missing here.
var points = []point{
	// A Machine is recorded.
	{"worker.create.begun", ops("create")},
	{"worker.create.described", ops("create")},
	{"worker.create.recorded", ops("create")},
	{"worker.record.begun", ops("create", "stop", "start", "restart", "update", "destroy", "payload", "add")},
	{"worker.record.saved", ops("create", "stop", "start", "restart", "update", "destroy", "payload", "add")},

	// Its images are fetched.
	{"worker.launch.begun", ops("create", "update")},
	{"image.file.written", ops("import", "pull")},
	{"image.blob.written", ops("import", "pull")},
	{"image.blob.named", ops("import", "pull")},
	{"image.tree.unpacked", ops("import", "pull")},
	{"image.tree.written", ops("import", "pull")},
	{"image.tree.named", ops("import", "pull")},
	{"image.import.filled", ops("import")},
	{"image.import.saved", ops("import")},
	{"image.pull.filled", ops("pull")},
	{"worker.launch.pulled", ops("create", "pull")},

	// The host is prepared.
	{"volume.mount.begun", ops("create", "start")},
	{"volume.mount.attached", ops("create", "start")},
	{"volume.mount.mounted", ops("create", "start")},
	{"worker.launch.mounted", ops("create", "restart")},
	{"host.prepare.written", ops("create")},
	{"host.prepare.directory", ops("create", "start")},
	{"host.prepare.tmpfs", ops("create", "start")},
	{"network.attach.namespace", ops("create", "restart")},
	{"network.attach.link", ops("create", "restart")},
	{"network.attach.host", ops("create", "restart")},
	{"network.attach.built", ops("create", "restart")},
	{"network.attach.admitted", ops("create", "restart")},
	{"host.prepare.network", ops("create", "start")},
	{"worker.launch.prepared", ops("create", "start", "restart", "update")},

	// Its pilot and its sandbox are started.
	{"worker.launch.recorded", ops("create", "start", "restart", "update", "resume")},
	{"driver.launch.written", ops("create", "start", "restart", "update")},
	{"driver.launch.begun", ops("create", "start", "restart", "update", "runc: create")},
	{"driver.process.written", ops("create", "restart")},
	{"worker.launch.started", ops("create", "start", "restart", "update", "runc: create", "resume")},
	{"worker.start.running", ops("create", "start", "restart", "update", "resume")},
	{"pilot.serve.locked", ops("create", "restart", "pilot dies")},
	{"pilot.serve.listening", ops("create", "restart", "pilot dies")},
	{"pilot.boot.read", ops("create", "restart", "pilot dies", "runc: create", "runc: pilot dies")},
	{"pilot.boot.prepared", ops("create", "restart", "pilot dies", "resume")},
	{"pilot.sandbox.started", ops("create", "restart", "sandbox dies", "resume")},
	// A sandbox that stands ready becomes that of a Machine: internal/driver/gvisor kills at each (TestWarm_APilotThatDiesAtTheClaim,
	// TestWarm_ADaemonThatDiesAtTheClaim), since a Machine with a Volume, as here, gets its own.
	{"driver.warm.recorded", nil},
	{"driver.warm.told", nil},
	{"pilot.claim.bound", nil},
	{"pilot.claim.started", nil},
	{"pilot.claim.moved", nil},
	{"pilot.claim.saved", nil},
	{"pilot.boot.made", ops("create", "restart", "pilot dies", "runc: create", "runc: pilot dies")},
	{"pilot.boot.recorded", ops("create", "restart", "sandbox dies")},
	{"pilot.rootfs.made", ops("create", "restart", "container dies", "runc: create")},
	{"pilot.bundle.written", ops("create", "restart", "container dies", "runc: create")},
	{"pilot.container.recorded", ops("create", "restart", "container dies", "runc: create", "runc: container dies")},
	{"pilot.container.started", ops("create", "restart", "container dies", "runc: create", "runc: container dies")},
	{"pilot.container.running", ops("create", "restart", "container dies", "runc: create", "runc: container dies")},
	{"pilot.journal.begun", ops("create", "stop", "container dies")},
	{"pilot.journal.written", ops("create", "stop", "container dies")},
	{"pilot.journal.compacted", ops("create", "pilot dies")},

	{"pilot.pause.started", ops("runc: create", "runc: sandbox dies")},
	{"pilot.monitor.ordered", ops("runc: create", "runc: sandbox dies", "runc: container dies")},
	{"pilot.monitor.started", ops("runc: create", "runc: sandbox dies", "runc: container dies")},

	// It logs more than one file takes.
	{"pilot.log.shifted", ops("chatter")},
	{"pilot.log.rotated", ops("chatter")},

	// A container is added to it.
	{"worker.add.recorded", ops("add")},
	{"worker.add.given", ops("add")},
	{"pilot.add.recorded", ops("add")},

	// A daemon finds what runs.
	{"worker.adopt.begun", ops("daemon dies")},
	{"worker.adopt.found", ops("daemon dies", "runc: daemon dies")},
	{"worker.adopt.sandbox", ops("pilot dies", "runc: pilot dies")},
	{"worker.payload.given", ops("daemon dies")},

	// Its files are exchanged.
	{"pilot.payload.recorded", ops("payload")},
	{"pilot.payload.written", ops("payload", "create")},
	{"pilot.payload.swapped", ops("payload", "create")},
	{"pilot.payload.linked", ops("payload", "create")},

	// It is ended.
	{"worker.stop.begun", ops("stop", "restart", "update")},
	{"worker.stop.asked", ops("stop", "restart", "update")},
	{"pilot.stop.begun", ops("stop", "restart")},
	{"pilot.stop.recorded", ops("stop", "restart")},
	{"pilot.stop.signalled", ops("stop", "restart", "runc: stop")},
	{"pilot.container.ended", ops("stop", "restart", "container dies", "runc: stop", "runc: container dies")},
	{"pilot.container.closed", ops("stop", "restart", "container dies", "runc: stop", "runc: container dies")},
	{"pilot.sandbox.killed", ops("stop", "restart", "sandbox dies", "suspend")},
	{"pilot.pause.killed", ops("runc: stop", "runc: sandbox dies")},
	{"pilot.finish.destroyed", ops("stop", "restart", "runc: stop", "suspend")},
	{"pilot.finish.recorded", ops("stop", "restart", "suspend")},
	{"worker.clean.begun", ops("stop", "destroy", "suspend")},
	{"driver.kill.ended", ops("stop", "destroy", "runc: stop", "runc: destroy")},
	{"driver.kill.removed", ops("stop", "destroy", "runc: stop", "runc: destroy")},
	{"worker.clean.killed", ops("stop", "destroy", "suspend")},
	{"host.release.begun", ops("stop", "destroy")},
	{"network.detach.dismissed", ops("stop", "destroy")},
	{"network.detach.alias", ops("stop", "destroy")},
	{"network.detach.link", ops("stop", "destroy")},
	{"host.release.undone", ops("stop", "destroy")},
	{"host.release.renamed", ops("destroy")},
	{"worker.clean.released", ops("stop", "destroy", "suspend")},
	{"worker.clean.undone", ops("stop", "destroy", "suspend")},
	{"worker.clean.recorded", ops("stop", "destroy", "suspend")},
	{"worker.halt.recorded", ops("down")},
	{"worker.halt.stopped", ops("down")},
	{"worker.halt.undone", ops("down")},

	// It is suspended, and runs on.
	{"worker.suspend.begun", ops("suspend")},
	{"pilot.suspend.recorded", ops("suspend")},
	{"pilot.suspend.begun", ops("suspend")},
	{"pilot.checkpoint.halted", ops("suspend")},
	{"pilot.checkpoint.written", ops("suspend")},
	{"pilot.snapshot.synced", ops("suspend")},
	{"pilot.snapshot.committed", ops("suspend")},
	{"worker.suspend.asked", ops("suspend")},
	{"pilot.resume.begun", ops("resume")},
	{"pilot.resume.taken", ops("resume")},
	{"pilot.resume.made", ops("resume")},
	{"pilot.resume.recorded", ops("resume")},
	{"pilot.resume.discarded", ops("resume")},
	{"pilot.resume.cold", ops("resume cold")},
	{"worker.clean.discarded", ops("stop suspended")},

	// Volumes.
	{"worker.volume.create.begun", ops("volume", "copy")},
	{"worker.volume.create.recorded", ops("volume", "copy")},
	{"volume.create.formatted", ops("volume", "copy")},
	{"volume.create.mounted", ops("volume", "copy")},
	{"volume.create.filled", ops("volume", "copy")},
	{"volume.create.kept", ops("volume", "copy")},
	{"worker.volume.create.made", ops("volume", "copy", "restore")},
	{"worker.volume.saved", ops("volume", "copy", "extend", "delete volume", "recover volume")},
	{"volume.meta.written", ops("volume", "copy", "extend", "snapshot")},
	{"worker.volume.extend.recorded", ops("extend")},
	{"volume.extend.recorded", ops("extend")},
	{"volume.extend.enlarged", ops("extend")},
	{"worker.volume.extend.made", ops("extend")},
	{"worker.snapshot.recorded", ops("snapshot")},
	{"volume.snapshot.begun", ops("snapshot")},
	{"volume.snapshot.frozen", ops("snapshot", "copy")},
	{"volume.snapshot.copied", ops("snapshot")},
	{"volume.snapshot.kept", ops("snapshot")},
	{"worker.snapshot.made", ops("snapshot")},
	{"worker.snapshot.saved", ops("snapshot")},
	{"worker.snapshot.delete.made", ops("delete snapshot")},
	{"worker.snapshot.delete.forgotten", ops("delete snapshot")},
	{"worker.volume.delete.recorded", ops("delete volume")},
	{"volume.delete.begun", ops("delete volume")},
	{"volume.delete.renamed", ops("delete volume")},
	{"worker.volume.delete.made", ops("delete volume")},

	// Secrets get a new key.
	{"seal.renew.added", ops("renew key")},
	{"seal.renew.resealed", ops("renew key")},
	{"seal.renew.done", ops("renew key")},

	// What nobody needs is removed.
	{"worker.collect.killed", ops("collect")},
	{"image.prune.forgotten", ops("prune")},
	{"image.prune.buried", ops("prune")},
	{"image.prune.condemned", ops("prune")},
}

func ops(names ...string) []string { return names }
