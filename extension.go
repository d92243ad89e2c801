package gondola

import (
	"net/netip"
	"time"
)

// This file holds the whole of what we add to Fly.io's wire format: one optional object named "gondola" on a Config, container, mount, file
// and healthcheck (towards the Machine), and one on the Machine (the way back). docs/rfd/0002-gondola-extension.md lists it field by field;
// a field is only ever added.

// ConfigExtension is the "gondola" object of a Config.
type ConfigExtension struct {
	Requests  *Resources  `json:"requests,omitempty"`   // reserved at the market, exact; if nil, the guest's
	Limits    *Resources  `json:"limits,omitempty"`     // of the whole Machine; zero amounts are not limited
	Driver    string      `json:"driver,omitempty"`     // isolation: "gvisor", "runc", …; if empty, the worker's default
	Hosts     []HostAlias `json:"hosts,omitempty"`      // further lines of /etc/hosts
	ShareProc bool        `json:"share_proc,omitempty"` // containers see each other's processes
	// RetryPull keeps pulling with back-off when an image cannot be had, as Kubernetes wants it, instead of failing the launch.
	RetryPull bool `json:"retry_pull,omitempty"`
	// RestartBackoff is "kubernetes" (10 s doubling to 5 min, forgotten after 10 min of running) or empty for Fly.io's way (restart.go).
	RestartBackoff string `json:"restart_backoff,omitempty"`
	ClusterDomain  string `json:"cluster_domain,omitempty"`
	// Label is what messages for people call the Machine, for a Pod as a kubelet does: "name_namespace(uid)". If empty, the Machine's id.
	Label string `json:"label,omitempty"`
	// FSGroup is the group that owns the temporary volumes, with the set-group-ID bit, so that what is made in them belongs to it too.
	FSGroup *int64 `json:"fs_group,omitempty"`
	// Gateway is what the Machine has of a node. If nil, nothing.
	Gateway *GatewayUse `json:"gateway,omitempty"`
}

// HostAlias is a line of /etc/hosts.
type HostAlias struct {
	IP    string   `json:"ip"`
	Names []string `json:"names"`
}

// ContainerExtension is the "gondola" object of a Container.
type ContainerExtension struct {
	WorkingDir  string       `json:"working_dir,omitempty"`
	Env         []EnvVar     `json:"env,omitempty"`         // in order, after the container's env map; later ones win
	Expand      bool         `json:"expand,omitempty"`      // replace $(VAR) in args and env values, $$ escapes (Kubernetes)
	Requests    *Resources   `json:"requests,omitempty"`    // of this container
	Limits      *Resources   `json:"limits,omitempty"`      // over its memory limit a container is killed alone, as OOMKilled
	PullPolicy  string       `json:"pull_policy,omitempty"` // "always", "if_not_present" (default) or "never"
	TTY         bool         `json:"tty,omitempty"`
	Stdin       bool         `json:"stdin,omitempty"`
	StdinOnce   bool         `json:"stdin_once,omitempty"`
	Security    *Security    `json:"security,omitempty"`
	Termination *Termination `json:"termination,omitempty"`
	PostStart   *Hook        `json:"post_start,omitempty"`
	PreStop     *Hook        `json:"pre_stop,omitempty"`
	// Init marks an init container: it is not waited for when the Machine is asked whether it runs, and its probes are none.
	Init bool `json:"init,omitempty"`
	// Sidecar, with Init, marks one that does not run to an end: it is started in its place among the init containers, restarted by its
	// policy, and ended when all that are neither init nor ephemeral containers have ended for good: after them, and after the sidecars
	// that were started after it.
	Sidecar bool `json:"sidecar,omitempty"`
	// Ephemeral marks a container that was added to a Machine that runs (Containers). It is started once, never again, and the Machine
	// does not wait for it.
	Ephemeral bool `json:"ephemeral,omitempty"`
	// Target names the container whose processes an ephemeral one sees as its own. If empty, those of no other.
	Target string `json:"target,omitempty"`
	// RestartRules come before the container's restart policy: the first that its exit code matches starts it anew.
	RestartRules []RestartRule `json:"restart_rules,omitempty"`
	// ResizeRestart lists the resources, "cpu" and "memory", whose change (Sizes) ends the container and starts it anew.
	ResizeRestart []string `json:"resize_restart,omitempty"`
}

// RestartRule matches the end of a container by its exit code.
type RestartRule struct {
	ExitCodes []int `json:"exit_codes"`
	Not       bool  `json:"not,omitempty"` // it matches the codes that are not listed
}

// Size is what a Machine or a container reserves and what it may use at most; zero limits are none.
type Size struct {
	Requests Resources `json:"requests"`
	Limits   Resources `json:"limits"`
}

// EnvVar is an environment variable whose value may be a secret or a fact that is known only when the Machine runs.
type EnvVar struct {
	Name     string `json:"name"`
	Value    string `json:"value,omitempty"`
	Secret   bool   `json:"secret,omitempty"`   // the value is in the Payload, of the container's start: a secret, or what may be another the next time
	Field    string `json:"field,omitempty"`    // "pod_ip", "pod_ips", "host_ip", "host_ips"
	Optional bool   `json:"optional,omitempty"` // with Secret: without a value the variable is not set; otherwise the container waits for it
	// File is where the value stands when the container is started. If nil, in no file.
	File *EnvFile `json:"file,omitempty"`
}

// EnvFile is a variable in a file of lines NAME='value' in a volume of the Machine, which an earlier container has written, say. The volume is not
// one in memory.
type EnvFile struct {
	Volume   string `json:"volume"`
	Path     string `json:"path"` // relative, in the volume
	Key      string `json:"key"`
	Optional bool   `json:"optional,omitempty"` // without the key the variable is not set; otherwise the container waits for it
}

// Security is what a process may do.
type Security struct {
	User             *int64            `json:"user,omitempty"`
	Group            *int64            `json:"group,omitempty"`
	Groups           []int64           `json:"groups,omitempty"`        // supplementary
	StrictGroups     bool              `json:"strict_groups,omitempty"` // only these, none of the image's /etc/group
	NonRoot          bool              `json:"non_root,omitempty"`      // refuse to start as uid 0
	ReadOnlyRootfs   bool              `json:"read_only_rootfs,omitempty"`
	NoNewPrivileges  bool              `json:"no_new_privileges,omitempty"`
	AddCapabilities  []string          `json:"add_capabilities,omitempty"` // without "CAP_"; "ALL"
	DropCapabilities []string          `json:"drop_capabilities,omitempty"`
	Sysctls          map[string]string `json:"sysctls,omitempty"`
}

// Termination says where a container leaves its last words.
type Termination struct {
	Path        string `json:"path,omitempty"`         // If empty, /dev/termination-log.
	FallbackLog bool   `json:"fallback_log,omitempty"` // on failure take the end of the log instead of nothing
}

// Hook runs after the start of a container or before its stop; one field is set.
type Hook struct {
	Exec         []string   `json:"exec,omitempty"`
	HTTP         *HTTPProbe `json:"http,omitempty"`
	Host         string     `json:"host,omitempty"` // for HTTP; if empty, the Machine
	SleepSeconds int64      `json:"sleep_seconds,omitempty"`
}

// MountExtension is the "gondola" object of a container's mount.
type MountExtension struct {
	ReadOnly bool   `json:"read_only,omitempty"`
	SubPath  string `json:"sub_path,omitempty"` // relative, in the volume
	// SubPathExpr is a SubPath in which $(VAR) is replaced by the container's variables; one that is not set is an error.
	SubPathExpr string `json:"sub_path_expr,omitempty"`
}

// VolumeMountExtension is the "gondola" object of one of a Config's mounts.
type VolumeMountExtension struct {
	ReadOnly bool `json:"read_only,omitempty"` // in every container
	// Group makes what is on the Volume belong to this group, which may write and whose id new files get: a Pod's fsGroup. If nil, it stays
	// as it is.
	Group *int64 `json:"group,omitempty"`
	// GroupChangePolicy is "always" (default), before every launch, or "on_root_mismatch": only where the Volume's root differs.
	GroupChangePolicy string `json:"group_change_policy,omitempty"`
}

// FileExtension is the "gondola" object of a File.
type FileExtension struct {
	User  int `json:"user,omitempty"`
	Group int `json:"group,omitempty"`
}

// HealthcheckExtension is the "gondola" object of a Healthcheck.
type HealthcheckExtension struct {
	Startup      bool       `json:"startup,omitempty"` // a startup probe: the others wait until it has passed; its failure ends the container
	Host         string     `json:"host,omitempty"`    // for http and tcp; if empty, the Machine's own address
	GRPC         *GRPCProbe `json:"grpc,omitempty"`
	GraceSeconds *int64     `json:"grace_seconds,omitempty"` // for the stop that a failure causes; if nil, the container's
}

// GRPCProbe asks grpc.health.v1.
type GRPCProbe struct {
	Port    int    `json:"port"`
	Service string `json:"service,omitempty"`
}

// MachineExtension is the "gondola" object of a Machine: what happened in it, told to those who drive it.
type MachineExtension struct {
	App        AppName           `json:"app"`
	Worker     WorkerName        `json:"worker"`
	Addresses  []netip.Addr      `json:"addresses,omitempty"` // of the Machine, IPv4 first, once its network has been made
	HostIPs    []netip.Addr      `json:"host_ips,omitempty"`  // of its host, IPv4 first
	Seq        uint64            `json:"seq"`                 // grows with every change of this Machine
	Allocated  Resources         `json:"allocated"`           // what it holds now; zero once its containers have ended
	Reason     string            `json:"reason,omitempty"`    // CamelCase, why it is failed or still waiting
	Message    string            `json:"message,omitempty"`
	Containers []ContainerStatus `json:"containers,omitempty"` // in the order of the Config
	Notes      []Note            `json:"notes,omitempty"`      // the last 50, oldest first: what a kubelet would record as Events
	SandboxID  string            `json:"sandbox_id,omitempty"` // changes when the sandbox is made anew
	StartedAt  time.Time         `json:"started_at,omitzero"`  // of the present sandbox
	Resize     *ResizeState      `json:"resize,omitempty"`     // set while a Resize is recorded and not in effect yet
}

// ResizeState is how far a Resize is.
type ResizeState struct {
	Error string `json:"error,omitempty"` // why the last try failed; it is tried again
}

// ContainerStatus is the state of one container.
type ContainerStatus struct {
	Name         string          `json:"name"`
	Image        string          `json:"image"`                  // reference as asked for
	ImageID      string          `json:"image_id,omitempty"`     // name@sha256:…
	ContainerID  string          `json:"container_id,omitempty"` // gondola://…, of the present or last run
	State        ContainerState  `json:"state"`
	Last         *ContainerState `json:"last,omitempty"` // the run before, ended
	RestartCount int             `json:"restart_count"`
	Ready        bool            `json:"ready"`   // runs and its readiness probe passes, or it ended well (init)
	Started      bool            `json:"started"` // runs and its startup probe has passed
	Ephemeral    bool            `json:"ephemeral,omitempty"`
	Size         *Size           `json:"size,omitempty"` // what the present run has; nil where nobody can tell
}

// ContainerState says what a container does; Kind decides which of the other fields mean something.
type ContainerState struct {
	Kind       ContainerKind `json:"kind"`
	Reason     string        `json:"reason,omitempty"` // waiting: ContainerCreating, CrashLoopBackOff, ErrImagePull…; ended: Completed, Error, OOMKilled…
	Message    string        `json:"message,omitempty"`
	ExitCode   int           `json:"exit_code,omitempty"` // ended; 128+n for signal n
	Signal     int           `json:"signal,omitempty"`
	StartedAt  time.Time     `json:"started_at,omitzero"`  // running, ended
	FinishedAt time.Time     `json:"finished_at,omitzero"` // ended
	// ContainerID is the id of the run that ended; empty while there is none, or where it never began.
	ContainerID string `json:"container_id,omitempty"`
}

// ContainerKind is one of waiting, running, exited.
type ContainerKind string

const (
	ContainerWaiting ContainerKind = "waiting"
	ContainerRunning ContainerKind = "running"
	ContainerExited  ContainerKind = "exited"
)

// Note is something that happened in a Machine, as a kubelet would tell it by an Event.
type Note struct {
	Seq       uint64    `json:"seq"` // grows within a Machine
	Time      time.Time `json:"time"`
	Warning   bool      `json:"warning,omitempty"`
	Reason    string    `json:"reason"` // Pulling, Pulled, Created, Started, Killing, BackOff, Failed, Unhealthy, SandboxChanged…
	Message   string    `json:"message"`
	Container string    `json:"container,omitempty"`
}

// CreateExtension is the "gondola" object of a create or update request: what a server tells a worker, and contents that never enter a
// Config. ID, Name and Network are accepted only from a server.
type CreateExtension struct {
	ID        MachineID `json:"id,omitempty"`
	Network   string    `json:"network,omitempty"` // name; If empty, DefaultNetwork.
	NetworkID uint32    `json:"network_id,omitempty"`
	Payload   *Payload  `json:"payload,omitempty"`
	// Secrets are the App's, from a server to its worker; what anybody else sends there is dropped. If nil, an update leaves none.
	Secrets *SecretSet `json:"secrets,omitempty"`
}

// Payload is what a Machine gets beside its Config: contents of secrets and the like. It rests sealed on the worker, lives in a tmpfs, and is
// in no answer, watch or log.
type Payload struct {
	Volumes     map[string][]PayloadFile     `json:"volumes,omitempty"`     // volume name → its files
	Env         map[string]map[string]string `json:"env,omitempty"`         // container → variable → value
	Credentials []RegistryCredential         `json:"credentials,omitempty"` // for pulling images
	// Partial leaves volumes, and variables of containers, that are not named here as the Machine has them. Only PutPayload looks at it.
	Partial bool              `json:"partial,omitempty"`
	Secrets map[string]string `json:"secrets,omitempty"` // the App's, name → value, from a worker to its pilot; dropped from anybody else
}

// PayloadFile is one file of a volume.
type PayloadFile struct {
	Path  string `json:"path"` // relative
	Data  []byte `json:"data"`
	Mode  uint32 `json:"mode"` // permission bits
	User  int    `json:"user,omitempty"`
	Group int    `json:"group,omitempty"`
}

// RegistryCredential opens a registry. Auth fields are as in a docker config.json.
type RegistryCredential struct {
	Registry string `json:"registry"` // host, or host/path
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Token    string `json:"token,omitempty"` // identity token
}
