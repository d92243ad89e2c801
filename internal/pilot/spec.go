// Package pilot supervises one Machine: it starts its containers in the order of their dependencies, restarts them in place, probes them,
// runs their hooks, keeps their logs and a journal on disk, and serves exec, attach, port-forward and live refresh of files.
//
// A Supervisor is that, as a Go value; cmd/gondola-pilot runs one per Machine as a process of its own that outlives the worker daemon and
// serves HTTP on a unix socket, and Client is the other end of it. How containers are really run is behind Runtime, which the drivers
// implement. The package knows nothing of images, networks or placement: a Spec arrives with everything prepared.
package pilot

import (
	"net/netip"
	"slices"
	"time"

	"gondola"
)

// Spec is one Machine, ready to run: images are unpacked, network and directories are there. It holds no secrets; they are in the Payload.
type Spec struct {
	Machine  gondola.MachineID `json:"machine"`
	App      gondola.AppName   `json:"app"`
	Version  gondola.Version   `json:"version"`
	Instance string            `json:"instance"` // of the gondola installation, for names outside its data directory

	Dir    string `json:"dir"`     // on disk, kept for the Machine's life: journal, logs, upper directories of root file systems, disk volumes
	RunDir string `json:"run_dir"` // tmpfs, lost at a reboot: payload, bundles, the runtime's own state. Mode 0700
	Socket string `json:"socket"`  // where a pilot process serves its API
	// API is the socket on which the daemon takes what pilots bring of their Machines. If empty, there is no /.fly/api in the Machine.
	API string `json:"api,omitempty"`

	NetNS string `json:"netns,omitempty"` // path of the network namespace; if empty, none of its own (fake)
	// HostNetwork says that NetNS is shared with others: its addresses must stay in it.
	HostNetwork bool         `json:"host_network,omitempty"`
	Cgroup      string       `json:"cgroup,omitempty"`    // below each hierarchy's root: "gondola/<instance>/<id>"; if empty, none
	Addresses   []netip.Addr `json:"addresses,omitempty"` // of the Machine, IPv4 first
	HostIPs     []netip.Addr `json:"host_ips,omitempty"`
	Label       string       `json:"label,omitempty"` // what messages call the Machine; if empty, its id
	Hostname    string       `json:"hostname"`
	Hosts       string       `json:"hosts"`       // content of /etc/hosts
	Resolv      string       `json:"resolv_conf"` // content of /etc/resolv.conf

	Limits         gondola.Resources `json:"limits"`              // of the whole sandbox; zero amounts are not limited
	Requests       gondola.Resources `json:"requests"`            // what the Machine has when others want as much as they can get
	Processes      int64             `json:"processes,omitempty"` // at most, threads included; zero is not limited
	LogBytes       int64             `json:"log_bytes,omitempty"` // size at which a container's log is rotated; if zero, 10 MiB
	OOMScore       int               `json:"oom_score,omitempty"` // 1 to 1000: who goes first when the host has no memory; zero says nothing
	ShareProc      bool              `json:"share_proc,omitempty"`
	RestartBackoff string            `json:"restart_backoff,omitempty"` // as in gondola.ConfigExtension
	FSGroup        *int64            `json:"fs_group,omitempty"`        // as in gondola.ConfigExtension
	KeepRootfs     bool              `json:"keep_rootfs,omitempty"`     // see KeepsRootfs
	Containers     []Container       `json:"containers"`
	Volumes        []Volume          `json:"volumes,omitempty"`

	// Checks are run as long as the Machine runs; Status has their outcomes. Their defaults are filled in.
	Checks []gondola.NamedCheck `json:"checks,omitempty"`
}

// Container is one container with image and Config merged.
type Container struct {
	Name       string   `json:"name"`
	Image      string   `json:"image"`                 // as asked for
	ImageID    string   `json:"image_id"`              // name@sha256:…
	Tree       string   `json:"tree"`                  // read-only, unpacked image, shared with other Machines
	Args       []string `json:"args"`                  // never empty
	Env        []string `json:"env"`                   // NAME=value, of image and Config; ContainerExtension.Env comes behind it
	WorkingDir string   `json:"working_dir"`           // if empty, "/"
	User       string   `json:"user,omitempty"`        // name or number, optional :group; resolved in the image's /etc/passwd and /etc/group
	AppSecrets bool     `json:"app_secrets,omitempty"` // every secret of the App is a variable, beside those that Config names

	// Config is the container as it was asked for: dependencies, restart, stop, health checks, files, mounts and the extension. Image, Exec,
	// Entrypoint, Cmd, User and Env of it are already merged into the fields above.
	Config gondola.Container `json:"config"`
}

// label is what messages call the Machine.
func (s *Spec) label() string {
	if s.Label != "" {
		return s.Label
	}
	return string(s.Machine)
}

// KeepsRootfs says whether a container's next run over the same image finds what this one has written, also in another sandbox.
func (s *Spec) KeepsRootfs(container string) bool {
	return s.KeepRootfs && slices.ContainsFunc(s.Containers, func(c Container) bool { return c.Name == container && !isEphemeral(&c) })
}

// VolumeMode is the mode of an empty volume, and its group: everybody may write, as in a kubelet's emptyDir; with FSGroup what is made in it
// belongs to that group.
func (s *Spec) VolumeMode() (mode uint32, group int) {
	if s.FSGroup == nil {
		return 0o777, 0
	}
	return 0o2777, int(*s.FSGroup)
}

// Volume is a directory that containers of the Machine share.
type Volume struct {
	Name   string     `json:"name"`
	Kind   VolumeKind `json:"kind"`
	SizeMB int        `json:"size_mb,omitempty"` // if zero, not limited
	Source string     `json:"source,omitempty"`  // of VolumeHost and VolumeImage: an absolute path of the host
}

// VolumeKind says where a Volume's contents are.
type VolumeKind string

const (
	VolumeDisk    VolumeKind = "disk"    // Dir/volumes/<name>; survives the sandbox
	VolumeMemory  VolumeKind = "memory"  // tmpfs in the sandbox
	VolumeHost    VolumeKind = "host"    // Source, which is there: a Volume of the platform, which no other Machine has, or a path of a gateway
	VolumeImage   VolumeKind = "image"   // Source, which is there: an unpacked image, shared with other Machines; read-only
	VolumePayload VolumeKind = "payload" // RunDir/payload/<name>, from Payload.Volumes; read-only, refreshed live
)

// ReadOnly says whether containers can only read what is in volumes of this kind.
func (k VolumeKind) ReadOnly() bool { return k == VolumeImage || k == VolumePayload }

// Status is what a pilot knows of its Machine. Everything in it survives the pilot: it is rebuilt from the journal.
type Status struct {
	Version    gondola.Version           `json:"version"` // of the Spec it runs
	Seq        uint64                    `json:"seq"`     // grows with every change
	Phase      Phase                     `json:"phase"`
	Message    string                    `json:"message,omitempty"`   // why Failed
	SandboxID  string                    `json:"sandbox_id"`          // changes when the sandbox is made anew
	StartedAt  time.Time                 `json:"started_at,omitzero"` // of the sandbox
	Size       *gondola.Size             `json:"size,omitempty"`      // that the sandbox has
	Resumed    bool                      `json:"resumed,omitempty"`   // the sandbox runs on from a snapshot
	Cold       string                    `json:"cold,omitempty"`      // why it was started from the beginning although there was a snapshot
	Containers []gondola.ContainerStatus `json:"containers"`          // in the order of the Spec
	Notes      []gondola.Note            `json:"notes,omitempty"`     // the last 50
	Checks     []gondola.CheckStatus     `json:"checks,omitempty"`    // in the order of the Spec
}

// Phase is where a pilot is.
type Phase string

const (
	Booting    Phase = "booting"    // sandbox and first containers are being made
	Running    Phase = "running"    // the sandbox is up: containers run, wait for each other or for a restart
	Ending     Phase = "ending"     // was told to stop
	Ended      Phase = "ended"      // every container has ended for good and the sandbox is gone; the pilot exits
	Failed     Phase = "failed"     // the sandbox could not be made; the pilot exits
	Resuming   Phase = "resuming"   // its snapshot is void, and what was in it about to run on
	Suspending Phase = "suspending" // was told to suspend
	Suspended  Phase = "suspended"  // it is on disk, and the sandbox gone; the pilot exits, and a new one resumes it
	Lost       Phase = "lost"       // the sandbox died under it; the pilot exits, and a new one starts everything again with the same journal
)

// Final says whether the pilot exits after this phase.
func (p Phase) Final() bool { return p == Ended || p == Failed || p == Lost || p == Suspended }
