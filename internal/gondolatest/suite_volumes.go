package gondolatest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"gondola"
)

// volumes is the part of the suite about gondola.Volumes. The platform's one worker has a disk of 1 TiB.
var volumes = []struct {
	name string
	run  func(s *suite)
}{
	{"VolumeIsMadeFoundAndDeleted", (*suite).volumeLife},
	{"VolumeRefusesWhatCannotBe", (*suite).volumeRefuses},
	{"VolumeFailsFastWithoutRoom", (*suite).volumeCapacity},
	{"VolumeIsRecovered", (*suite).volumeRecovered},
	{"VolumeThatIsDeletedGivesItsRoom", (*suite).volumeGivesRoom},
	{"VolumeOutlivesItsMachines", (*suite).volumeOutlives},
	{"VolumeIsOfOneMachineAtATime", (*suite).volumeAttached},
	{"VolumeByNameIsAFreeOne", (*suite).volumeByName},
	{"VolumesOfContainers", (*suite).volumesOfContainers},
	{"VolumeFollowsUpdates", (*suite).volumeUpdates},
	{"VolumeExtends", (*suite).volumeExtends},
	{"VolumeSnapshots", (*suite).volumeSnapshots},
	{"VolumeWithoutAFileSystem", (*suite).volumeRaw},
}

func runVolumes(t *testing.T, open func(t *testing.T) gondola.Platform) {
	for _, c := range volumes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // each has a platform of its own
			c.run(newSuite(t, open))
		})
	}
}

func (s *suite) volume(req gondola.CreateVolumeRequest) gondola.Volume {
	s.Helper()
	v, err := s.p.CreateVolume(s.Context(), suiteApp, req)
	if err != nil {
		s.Fatalf("CreateVolume = %v", err)
	}
	return v
}

func volumeRef(v gondola.Volume) gondola.VolumeRef {
	return gondola.VolumeRef{App: suiteApp, ID: v.ID}
}

func (s *suite) getVolume(v gondola.Volume) gondola.Volume {
	s.Helper()
	v, err := s.p.Volume(s.Context(), volumeRef(v))
	s.no(err, "Volume")
	return v
}

// mounting is a Machine that mounts a Volume at /data.
func mounting(v gondola.Volume, command ...string) gondola.Config {
	c := config(command...)
	c.Mounts = []gondola.VolumeMount{{Volume: string(v.ID), Path: "/data"}}
	return c
}

// run runs a command of package program in a Machine and returns what it printed.
func (s *suite) run(m gondola.Machine, container string, command ...string) string {
	s.Helper()
	res, err := s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Container: container, Command: append([]string{"/program"}, command...)})
	if err != nil || res.ExitCode != 0 {
		s.Fatalf("Exec(%v) = %+v, %v", command, res, err)
	}
	return res.Stdout
}

func (s *suite) destroyed(m gondola.Machine) {
	s.Helper()
	s.no(s.p.Destroy(s.Context(), m.Ref(), true), "Destroy")
	s.await(m.Ref(), gondola.Destroyed)
}

func (s *suite) volumeLife() {
	empty, err := s.p.ListVolumes(s.Context(), suiteApp)
	if err != nil || len(empty) != 0 {
		s.Errorf("ListVolumes of nothing = %v, %v", empty, err)
	}
	id := gondola.NewVolumeID()
	v := s.volume(gondola.CreateVolumeRequest{Name: "data", ID: id})
	if v.ID != id || v.Name != "data" || v.State != gondola.VolumeCreated || v.SizeGB != 3 || v.FSType != "ext4" || v.BlockSize != 4096 || v.BytesTotal == 0 ||
		v.AttachedMachine != nil || v.Region == "" || v.Zone == "" || v.Worker == "" || v.App != suiteApp || v.SnapshotRetention != 5 || v.CreatedAt.IsZero() || v.HostStatus != "ok" {
		s.Errorf("CreateVolume = %+v", v)
	}
	again := s.volume(gondola.CreateVolumeRequest{Name: "data", ID: id})
	second := s.volume(gondola.CreateVolumeRequest{Name: "data", SizeGB: 1})
	if again.ID != id || second.ID == id {
		s.Errorf("CreateVolume again = %s, of another %s, want the id %s to make one", again.ID, second.ID, id)
	}
	for _, app := range []gondola.AppName{suiteApp, ""} {
		if all, err := s.p.ListVolumes(s.Context(), app); err != nil || len(all) != 2 || all[0].ID != id {
			s.Errorf("ListVolumes(%q) = %+v, %v", app, all, err)
		}
	}
	days, on := 9, true
	if u, err := s.p.UpdateVolume(s.Context(), volumeRef(v), gondola.UpdateVolumeRequest{SnapshotRetention: &days, AutoBackup: &on}); err != nil ||
		u.SnapshotRetention != 9 || !u.AutoBackup {
		s.Errorf("UpdateVolume = %+v, %v", u, err)
	}
	if got := s.getVolume(v); got.SnapshotRetention != 9 {
		s.Errorf("Volume after the update = %+v", got)
	}
	for range 2 {
		gone, err := s.p.PurgeVolume(s.Context(), volumeRef(v))
		if err != nil || gone.ID != id {
			s.Errorf("PurgeVolume = %+v, %v", gone, err)
		}
	}
	_, err = s.p.Volume(s.Context(), volumeRef(v))
	s.wants(err, gondola.ErrNotFound, "Volume of a deleted one")
	if all, err := s.p.ListVolumes(s.Context(), suiteApp); err != nil || len(all) != 1 {
		s.Errorf("ListVolumes after the delete = %+v, %v", all, err)
	}
}

func (s *suite) volumeRefuses() {
	days, past := 61, -1
	for what, req := range map[string]gondola.CreateVolumeRequest{"no name": {}, "a name with a slash": {Name: "a/b"}, "a negative size": {Name: "a", SizeGB: -1},
		"too large": {Name: "a", SizeGB: 501}, "61 days": {Name: "a", SnapshotRetention: &days}, "-1 days": {Name: "a", SnapshotRetention: &past}, "no such fstype": {Name: "a", FSType: "ntfs"}, "two sources": {Name: "a", SnapshotID: gondola.NewSnapshotID(), SourceVolume: gondola.NewVolumeID()}} {
		_, err := s.p.CreateVolume(s.Context(), suiteApp, req)
		s.wants(err, gondola.ErrInvalid, "CreateVolume with "+what)
	}
	ref, ctx := gondola.VolumeRef{App: suiteApp, ID: gondola.NewVolumeID()}, s.Context()
	_, err := s.p.Volume(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "Volume")
	_, err = s.p.UpdateVolume(ctx, ref, gondola.UpdateVolumeRequest{})
	s.wants(err, gondola.ErrNotFound, "UpdateVolume")
	_, err = s.p.ExtendVolume(ctx, ref, 5)
	s.wants(err, gondola.ErrNotFound, "ExtendVolume")
	_, err = s.p.DeleteVolume(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "DeleteVolume")
	_, err = s.p.PurgeVolume(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "PurgeVolume")
	_, err = s.p.RecoverVolume(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "RecoverVolume")
	_, err = s.p.SnapshotVolume(ctx, ref, "")
	s.wants(err, gondola.ErrNotFound, "SnapshotVolume")
	_, err = s.p.ListSnapshots(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "ListSnapshots")
	s.wants(s.p.DeleteSnapshot(ctx, ref, gondola.NewSnapshotID()), gondola.ErrNotFound, "DeleteSnapshot")
	_, err = s.p.CreateVolume(ctx, suiteApp, gondola.CreateVolumeRequest{Name: "a", SnapshotID: gondola.NewSnapshotID()})
	s.wants(err, gondola.ErrNotFound, "CreateVolume from an unknown snapshot")
	_, err = s.p.Create(ctx, suiteApp, gondola.CreateRequest{Config: mounting(gondola.Volume{ID: ref.ID})})
	s.wants(err, gondola.ErrNotFound, "Create with an unknown volume")
	v := s.volume(gondola.CreateVolumeRequest{Name: "data"})
	bad := mounting(v)
	bad.Mounts[0].Path = "data"
	_, err = s.p.Create(ctx, suiteApp, gondola.CreateRequest{Config: bad})
	s.wants(err, gondola.ErrInvalid, "Create with a relative path")
	bad = mounting(v)
	bad.Mounts[0].ExtendThresholdPercent = 80
	_, err = s.p.Create(ctx, suiteApp, gondola.CreateRequest{Config: bad})
	s.wants(err, gondola.ErrUnsupported, "Create with a volume that grows by itself")
}

func (s *suite) volumeCapacity() {
	for range 2 { // of 1024 GB
		s.volume(gondola.CreateVolumeRequest{Name: "big", SizeGB: 500})
	}
	begin := time.Now()
	_, err := s.p.CreateVolume(s.Context(), suiteApp, gondola.CreateVolumeRequest{Name: "big", SizeGB: 100})
	s.wants(err, gondola.ErrCapacity, "CreateVolume without room")
	if r := gondola.Refusals(err); len(r) != 1 || r[0].Reason == "" || r[0].Worker == "" {
		s.Errorf("refusals = %+v", r)
	}
	if took := time.Since(begin); took > 5*time.Second {
		s.Errorf("the refusal took %s", took)
	}
	small := s.volume(gondola.CreateVolumeRequest{Name: "small", SizeGB: 24})
	_, err = s.p.ExtendVolume(s.Context(), volumeRef(small), 25)
	s.wants(err, gondola.ErrCapacity, "ExtendVolume without room")
	if got := s.getVolume(small); got.SizeGB != 24 || got.State != gondola.VolumeCreated {
		s.Errorf("after an extension that was refused the volume is %+v", got)
	}
	a, err := s.p.Ask(s.Context(), gondola.Ask{DiskBytes: 1 << 30})
	if err != nil || len(a.Bids) != 0 || len(a.Refusals) != 1 {
		s.Errorf("Ask for a disk = %+v, %v, want a refusal", a, err)
	}
}

func (s *suite) volumeOutlives() {
	v := s.volume(gondola.CreateVolumeRequest{Name: "data"})
	m := s.started(mounting(v))
	s.run(m, "", "write", "/data/a", "kept")
	if got := s.getVolume(v); got.AttachedMachine == nil || *got.AttachedMachine != m.ID {
		s.Errorf("attached_machine_id = %v, want %s", got.AttachedMachine, m.ID)
	}
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{Signal: "SIGTERM"}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	if got := s.getVolume(v); got.AttachedMachine == nil {
		s.Error("a stopped machine has lost its volume")
	}
	_, err := s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	s.await(m.Ref(), gondola.Started)
	if got := s.run(m, "", "read", "/data/a"); got != "kept" {
		s.Errorf("after a restart /data/a holds %q", got)
	}
	s.destroyed(m)
	if got := s.getVolume(v); got.AttachedMachine != nil {
		s.Errorf("attached_machine_id = %s after the machine was destroyed", *got.AttachedMachine)
	}
	other := s.started(mounting(v))
	if got := s.run(other, "", "read", "/data/a"); got != "kept" {
		s.Errorf("in another machine /data/a holds %q", got)
	}
}

func (s *suite) volumeAttached() {
	v := s.volume(gondola.CreateVolumeRequest{Name: "data"})
	m := s.create(gondola.CreateRequest{Name: "first", Config: mounting(v), SkipLaunch: true})
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Name: "second", Config: mounting(v)})
	s.wants(err, gondola.ErrPrecondition, "Create with a volume that another machine has")
	_, err = s.p.DeleteVolume(s.Context(), volumeRef(v))
	s.wants(err, gondola.ErrPrecondition, "DeleteVolume of one that a machine has")
	if again := s.create(gondola.CreateRequest{Name: "first", Config: mounting(v), SkipLaunch: true}); again.ID != m.ID {
		s.Errorf("creating the same again made %s beside %s", again.ID, m.ID)
	}
	s.destroyed(m)
	s.create(gondola.CreateRequest{Name: "second", Config: mounting(v), SkipLaunch: true}) // its name is not spent
}

func (s *suite) volumeByName() {
	first := s.volume(gondola.CreateVolumeRequest{Name: "data"})
	second := s.volume(gondola.CreateVolumeRequest{Name: "data"})
	named := config()
	named.Mounts = []gondola.VolumeMount{{Name: "data", Path: "/data"}}
	a := s.create(gondola.CreateRequest{Name: "a", Config: named, SkipLaunch: true})
	if got := a.Config.Mounts[0].Volume; got != string(first.ID) {
		s.Errorf("config.mounts[0].volume = %q, want the older %s", got, first.ID)
	}
	if again := s.create(gondola.CreateRequest{Name: "a", Config: named, SkipLaunch: true}); again.ID != a.ID {
		s.Errorf("creating the same again made %s beside %s", again.ID, a.ID)
	}
	b := s.create(gondola.CreateRequest{Config: named, SkipLaunch: true})
	if got := b.Config.Mounts[0].Volume; got != string(second.ID) {
		s.Errorf("config.mounts[0].volume = %q, want the other %s", got, second.ID)
	}
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: named})
	s.wants(err, gondola.ErrPrecondition, "Create with no free volume of that name")
	named.Mounts[0].Name = "nothing"
	_, err = s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: named})
	s.wants(err, gondola.ErrNotFound, "Create with a name that no volume has")
}

func (s *suite) volumesOfContainers() {
	v, w := s.volume(gondola.CreateVolumeRequest{Name: "one"}), s.volume(gondola.CreateVolumeRequest{Name: "two"})
	c := gondola.Config{Mounts: []gondola.VolumeMount{{Volume: string(v.ID), Name: "one"},
		{Volume: string(w.ID), Path: "/everywhere", Gondola: &gondola.VolumeMountExtension{ReadOnly: true}}}}
	for _, name := range []string{"a", "b"} {
		k := gondola.Container{Name: name, Image: "test/app", Cmd: []string{"trap"}}
		if name == "a" {
			k.Mounts = []gondola.ContainerMount{{Name: "one", Path: "/one"}}
		}
		c.Containers = append(c.Containers, k)
	}
	m := s.allStarted(c)
	s.run(m, "a", "write", "/one/x", "in the volume")
	s.run(m, "b", "write", "/one/x", "in the container")
	s.destroyed(m)
	again := s.started(mounting(v))
	if got := s.run(again, "", "read", "/data/x"); got != "in the volume" {
		s.Errorf("the volume holds %q, want what the container wrote that mounts it", got)
	}
	if len(m.Config.Containers[0].Mounts) != 1 {
		s.Errorf("the config of the machine was changed: %+v", m.Config.Containers[0])
	}
}

func (s *suite) volumeUpdates() {
	v, w := s.volume(gondola.CreateVolumeRequest{Name: "one"}), s.volume(gondola.CreateVolumeRequest{Name: "two"})
	m := s.started(mounting(v))
	got, err := s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: mounting(w)}})
	s.no(err, "Update")
	if x := s.getVolume(w); x.AttachedMachine == nil {
		s.Error("an update does not attach the volume at once")
	}
	_, err = s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{Version: got.Version, States: []gondola.State{gondola.Started}, Timeout: patience})
	s.no(err, "Wait")
	if x := s.getVolume(v); x.AttachedMachine != nil {
		s.Error("an update that drops a volume does not detach it")
	}
	s.create(gondola.CreateRequest{Config: mounting(v), SkipLaunch: true})
	_, err = s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: mounting(v)}})
	s.wants(err, gondola.ErrPrecondition, "Update to a volume that another machine has")
}

func (s *suite) volumeExtends() {
	v := s.volume(gondola.CreateVolumeRequest{Name: "data", SizeGB: 2})
	m := s.started(mounting(v))
	res, err := s.p.ExtendVolume(s.Context(), volumeRef(v), 5)
	if err != nil || res.Volume.SizeGB != 5 || res.Volume.BytesTotal != 5<<30 || res.Volume.State != gondola.VolumeCreated {
		s.Errorf("ExtendVolume = %+v, %v", res, err)
	}
	_, err = s.p.ExtendVolume(s.Context(), volumeRef(v), 4)
	s.wants(err, gondola.ErrInvalid, "ExtendVolume to less")
	if _, err := s.p.ExtendVolume(s.Context(), volumeRef(v), 5); err != nil {
		s.Errorf("ExtendVolume again = %v", err)
	}
	if st := s.get(m.Ref()).State; st != gondola.Started {
		s.Errorf("the machine is %s after the extension", st)
	}
}

func (s *suite) volumeSnapshots() {
	v := s.volume(gondola.CreateVolumeRequest{Name: "data", SizeGB: 2})
	m := s.started(mounting(v))
	s.run(m, "", "write", "/data/a", "then")
	id := gondola.NewSnapshotID()
	snap, err := s.p.SnapshotVolume(s.Context(), volumeRef(v), id)
	if err != nil || snap.ID != id || snap.Status != "created" || snap.VolumeSize != 2<<30 || snap.RetentionDays != 5 || snap.Volume != v.ID || snap.Region != v.Region || snap.CreatedAt.IsZero() {
		s.Fatalf("SnapshotVolume = %+v, %v", snap, err)
	}
	s.run(m, "", "write", "/data/a", "now")
	if again, err := s.p.SnapshotVolume(s.Context(), volumeRef(v), id); err != nil || !again.CreatedAt.Equal(snap.CreatedAt) {
		s.Errorf("SnapshotVolume again = %+v, %v", again, err)
	}
	lists := func(ref gondola.VolumeRef, want ...string) {
		s.Helper()
		all, err := s.p.ListSnapshots(s.Context(), ref)
		var have []string
		for _, one := range all {
			have = append(have, one.ID)
			if one.Region != v.Region {
				s.Errorf("ListSnapshots(%v) says that %s is in %q, want %s", ref, one.ID, one.Region, v.Region)
			}
		}
		if err != nil || !slices.Equal(have, want) {
			s.Errorf("ListSnapshots(%v) = %v, %v, want %v", ref, have, err, want)
		}
	}
	lists(volumeRef(v), id)
	_, err = s.p.CreateVolume(s.Context(), suiteApp, gondola.CreateVolumeRequest{Name: "less", SizeGB: 1, SnapshotID: id})
	s.wants(err, gondola.ErrInvalid, "CreateVolume smaller than its snapshot")
	restored := s.volume(gondola.CreateVolumeRequest{Name: "restored", SnapshotID: id})
	fork := s.volume(gondola.CreateVolumeRequest{Name: "fork", SizeGB: 4, SourceVolume: v.ID})
	if restored.SizeGB != 2 || fork.SizeGB != 4 {
		s.Errorf("restored has %d GB, fork %d, want 2 and 4", restored.SizeGB, fork.SizeGB)
	}
	for _, c := range []struct {
		of   gondola.Volume
		want string
	}{{restored, "then"}, {fork, "now"}} {
		if got := s.run(s.started(mounting(c.of)), "", "read", "/data/a"); got != c.want {
			s.Errorf("%s holds %q, want %q", c.of.Name, got, c.want)
		}
	}
	// A snapshot outlives its volume.
	s.destroyed(m)
	_, err = s.p.PurgeVolume(s.Context(), volumeRef(v))
	s.no(err, "PurgeVolume")
	other, err := s.p.SnapshotVolume(s.Context(), volumeRef(fork), "")
	s.no(err, "SnapshotVolume of the fork")
	lists(volumeRef(v), id)
	lists(gondola.VolumeRef{App: suiteApp}, id, other.ID)
	s.volume(gondola.CreateVolumeRequest{Name: "late", SnapshotID: id})
	s.no(s.p.DeleteSnapshot(s.Context(), volumeRef(v), id), "DeleteSnapshot")
	if err := s.p.DeleteSnapshot(s.Context(), volumeRef(v), id); err != nil && !errors.Is(err, gondola.ErrNotFound) {
		s.Errorf("DeleteSnapshot again = %v", err)
	}
	_, err = s.p.CreateVolume(s.Context(), suiteApp, gondola.CreateVolumeRequest{Name: "too-late", SnapshotID: id})
	s.wants(err, gondola.ErrNotFound, "CreateVolume from a deleted snapshot")
}

func (s *suite) volumeRecovered() {
	v := s.volume(gondola.CreateVolumeRequest{Name: "data", SizeGB: 1})
	m := s.started(mounting(v))
	s.run(m, "", "write", "/data/a", "kept")
	_, err := s.p.DeleteVolume(s.Context(), volumeRef(v))
	s.wants(err, gondola.ErrPrecondition, "DeleteVolume of one that a machine has")
	_, err = s.p.PurgeVolume(s.Context(), volumeRef(v))
	s.wants(err, gondola.ErrPrecondition, "PurgeVolume of one that a machine has")
	s.destroyed(m)
	for range 2 {
		gone, err := s.p.DeleteVolume(s.Context(), volumeRef(v))
		if err != nil || gone.State != gondola.VolumePendingDestroy || gone.DeletedAt == nil {
			s.Errorf("DeleteVolume = %+v, %v", gone, err)
		}
	}
	if all, err := s.p.ListVolumes(s.Context(), suiteApp); err != nil || len(all) != 1 || all[0].State != gondola.VolumePendingDestroy {
		s.Errorf("ListVolumes = %+v, %v, want it as it is deleted", all, err)
	}
	_, err = s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: mounting(v)})
	s.wants(err, gondola.ErrPrecondition, "Create with a volume that is deleted")
	_, err = s.p.ExtendVolume(s.Context(), volumeRef(v), 2)
	s.wants(err, gondola.ErrPrecondition, "ExtendVolume of one that is deleted")
	fork := s.volume(gondola.CreateVolumeRequest{Name: "fork", SourceVolume: v.ID})
	for range 2 {
		if back, err := s.p.RecoverVolume(s.Context(), volumeRef(v)); err != nil || back.State != gondola.VolumeCreated || back.DeletedAt != nil {
			s.Errorf("RecoverVolume = %+v, %v", back, err)
		}
	}
	for _, v := range []gondola.Volume{v, fork} {
		m := s.started(mounting(v))
		if got := s.run(m, "", "read", "/data/a"); got != "kept" {
			s.Errorf("%s holds %q", v.Name, got)
		}
	}
}

func (s *suite) volumeGivesRoom() {
	var deleted []gondola.Volume
	for range 2 { // of 1024 GB
		v := s.volume(gondola.CreateVolumeRequest{Name: "big", SizeGB: 500})
		_, err := s.p.DeleteVolume(s.Context(), volumeRef(v))
		s.no(err, "DeleteVolume")
		deleted = append(deleted, v)
	}
	s.volume(gondola.CreateVolumeRequest{Name: "new", SizeGB: 400})
	_, err := s.p.RecoverVolume(s.Context(), volumeRef(deleted[0]))
	if !errors.Is(err, gondola.ErrNotFound) && !errors.Is(err, gondola.ErrPrecondition) {
		s.Errorf("RecoverVolume of the one deleted first = %v, want that its room was taken", err)
	}
	if back, err := s.p.RecoverVolume(s.Context(), volumeRef(deleted[1])); err != nil || back.State != gondola.VolumeCreated {
		s.Errorf("RecoverVolume of the other = %+v, %v, want it: one was enough", back, err)
	}
	_, err = s.p.CreateVolume(s.Context(), suiteApp, gondola.CreateVolumeRequest{Name: "more", SizeGB: 200})
	s.wants(err, gondola.ErrCapacity, "CreateVolume beyond what deleted ones give back")
}

func (s *suite) volumeRaw() {
	v := s.volume(gondola.CreateVolumeRequest{Name: "disk", SizeGB: 1, FSType: "raw"})
	if v.FSType != "raw" || v.BytesTotal != 1<<30 || v.BytesUsed > 1<<20 {
		s.Errorf("a raw volume is %+v", v)
	}
	m := s.started(mounting(v))
	holds := func(m gondola.Machine, want string) {
		s.Helper()
		if got := s.run(m, "", "disk", "/data"); got != want+"\n" {
			s.Errorf("the disk of machine %s is %s, want %s", m.ID, got, want)
		}
	}
	holds(m, `1073741824 "\x00\x00\x00\x00"`)
	s.run(m, "", "disk", "/data", "kept")
	snap, err := s.p.SnapshotVolume(s.Context(), volumeRef(v), "")
	s.no(err, "SnapshotVolume")
	s.run(m, "", "disk", "/data", "late")
	if _, err := s.p.ExtendVolume(s.Context(), volumeRef(v), 2); err != nil {
		s.Errorf("ExtendVolume = %v", err)
	}
	holds(m, `2147483648 "\x00\x00\x00\x00"`)
	for want, source := range map[string]gondola.CreateVolumeRequest{
		`1073741824 "kept"`:             {Name: "restored", SnapshotID: snap.ID},
		`2147483648 "\x00\x00\x00\x00"`: {Name: "fork", SourceVolume: v.ID, FSType: "raw"},
	} {
		of := s.volume(source)
		if of.FSType != "raw" {
			s.Errorf("a copy of a raw volume is %q", of.FSType)
		}
		holds(s.started(mounting(of)), want)
	}
	_, err = s.p.CreateVolume(s.Context(), suiteApp, gondola.CreateVolumeRequest{Name: "other", SnapshotID: snap.ID, FSType: "ext4"})
	s.wants(err, gondola.ErrInvalid, "CreateVolume with ext4 as a copy of a raw one")
	if all, err := s.p.ListVolumes(s.Context(), suiteApp); err != nil || len(all) != 3 {
		s.Errorf("after a create that was refused there are %d volumes, %v, want 3", len(all), err)
	}
}
