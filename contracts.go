package gondola

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"time"
)

// Machines is the life of Machines. A worker does it, a market routes it, a client carries it; all three pass one contract suite.
//
// Every method returns ErrNotFound for an unknown App or Machine, ErrUnavailable when the worker of the Machine does not answer, and a
// context's error as ErrDeadline. Changing methods return when the step is recorded, not when it is done: use Wait.
type Machines interface {
	// Create finds a place for a Machine and records it there; unless SkipLaunch it starts. It fails fast: ErrCapacity with one Refusal per
	// worker asked, ErrInvalid, ErrNameTaken. Doing it again with the same id (request.Gondola.ID) or the same explicit name and equal
	// Config returns the Machine that is there.
	Create(ctx context.Context, app AppName, req CreateRequest) (Machine, error)
	Get(ctx context.Context, ref Ref) (Machine, error)
	// List returns the Machines of an App, or of all Apps where app is empty, oldest first.
	List(ctx context.Context, app AppName, filter ListFilter) ([]Machine, error)
	// Update puts a new Config in place as a new Version and starts it unless SkipLaunch. ErrConflict if CurrentVersion is set and stale.
	Update(ctx context.Context, ref Ref, req UpdateRequest) (Machine, error)
	Start(ctx context.Context, ref Ref) (StartResult, error)
	Stop(ctx context.Context, ref Ref, req StopRequest) error
	Restart(ctx context.Context, ref Ref, req RestartRequest) error
	// Suspend writes a started Machine's memory to its host's disk and ends it; Start makes it run on from there, or from the beginning where that
	// cannot be. ErrPrecondition for a Machine that does not run, or that can never be suspended; the message says why. It comes to Suspended, or,
	// with an Event of type "suspend" whose request has the error, back to Started. One that is suspended is left alone.
	Suspend(ctx context.Context, ref Ref) error
	Signal(ctx context.Context, ref Ref, sig Signal) error
	// Destroy undoes a Machine for ever. One that runs needs force, else ErrPrecondition. Destroying twice is no error while it is on record.
	Destroy(ctx context.Context, ref Ref, force bool) error
	// Wait blocks until the Machine is in one of the states, at most req.Timeout: then ErrDeadline whose message ends with the state it is in.
	// ErrPrecondition, with that message too, as soon as it is destroyed and can come to none of them.
	Wait(ctx context.Context, ref Ref, req WaitRequest) (WaitResult, error)
	Exec(ctx context.Context, ref Ref, req ExecRequest) (ExecResult, error)
	Events(ctx context.Context, ref Ref, limit int) ([]Event, error)
	Processes(ctx context.Context, ref Ref) ([]ProcessStat, error)
	// SetMetadata merges values; an empty or nil value deletes its key. ErrPrecondition if version is set and stale.
	SetMetadata(ctx context.Context, ref Ref, version Version, values map[string]*string) error
	// Cordon keeps new connections from the Machine's services, Uncordon lets them come. Doing it again is harmless. It makes no new Version.
	Cordon(ctx context.Context, ref Ref) error
	Uncordon(ctx context.Context, ref Ref) error
	// Versions returns what the Machine has been, newest first.
	Versions(ctx context.Context, ref Ref) ([]MachineVersion, error)
}

// MachineVersion is one Version of a Machine.
type MachineVersion struct {
	Version Version `json:"version"`
	Config  *Config `json:"user_config"`
}

// CreateRequest is the body of POST …/machines.
type CreateRequest struct {
	Config                  Config           `json:"config"`
	Name                    string           `json:"name,omitempty"`   // If empty, made up.
	Region                  string           `json:"region,omitempty"` // a code, a comma list in order of preference, or "any"; if empty, any
	SkipLaunch              bool             `json:"skip_launch,omitempty"`
	SkipServiceRegistration bool             `json:"skip_service_registration,omitempty"` // the new Machine is cordoned
	SkipSecrets             bool             `json:"skip_secrets,omitempty"`
	MinSecretsVersion       *uint64          `json:"min_secrets_version,omitempty"`
	LeaseTTL                int              `json:"lease_ttl,omitempty"` // If set, the caller gets a Lease for so many seconds: Machine.Nonce.
	Gondola                 *CreateExtension `json:"gondola,omitempty"`
}

// UpdateRequest is the body of POST …/machines/{id}.
type UpdateRequest struct {
	CreateRequest
	CurrentVersion Version `json:"current_version,omitempty"`
	// Force lets an update drop the "gondola" object of a Machine that has one; without it that is ErrInvalid.
	Force bool `json:"force,omitempty"`
}

// ListFilter narrows a List; zero fields do not.
type ListFilter struct {
	Region         Region
	States         []State // in any of these; with Destroyed, those of the last 48 hours
	Metadata       map[string]string
	IncludeDeleted bool // destroyed Machines of the last 48 hours too
	IncludeLeases  bool // Machine.Lease is set
}

// StartResult is the answer to a start.
type StartResult struct {
	PreviousState State  `json:"previous_state"`
	Migrated      bool   `json:"migrated"`
	NewHost       string `json:"new_host"`
}

// StopRequest says how to stop; zero fields mean the Config's stop_config.
type StopRequest struct {
	Signal  Signal    `json:"signal,omitempty"`
	Timeout *Duration `json:"timeout,omitempty"`
}

// RestartRequest says how to restart.
type RestartRequest struct {
	Signal    Signal
	Timeout   *Duration
	ForceStop bool
}

// WaitRequest says what to wait for.
type WaitRequest struct {
	States      []State       // If empty, Started.
	Settled     bool          // any state that is not Transient
	Version     Version       // If set, of this version; another one's answer is Replaced.
	FromEventID string        // If set, only after this event.
	Timeout     time.Duration // 1 to 60 s; if zero, 60 s
}

// WaitResult is the answer to a wait.
type WaitResult struct {
	OK      bool    `json:"ok"`
	State   State   `json:"state"`
	Version Version `json:"version"`
	EventID string  `json:"event_id,omitempty"`
}

// ExecRequest runs a command to its end.
type ExecRequest struct {
	Container string   `json:"container,omitempty"` // If empty, the first that is not an init container.
	Command   []string `json:"command,omitempty"`
	Stdin     string   `json:"stdin,omitempty"`
	Timeout   int      `json:"timeout,omitempty"` // seconds; if zero, 30
}

// ExecResult is what came of it; output beyond 1 MiB per stream is cut.
type ExecResult struct {
	ExitCode   int    `json:"exit_code"`
	ExitSignal int    `json:"exit_signal,omitempty"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
}

// Apps keeps the Apps of a server.
type Apps interface {
	CreateApp(ctx context.Context, app NewApp) (App, error) // ErrNameTaken, ErrInvalid
	App(ctx context.Context, name AppName) (App, error)
	ListApps(ctx context.Context, org string) ([]App, error)
	DeleteApp(ctx context.Context, name AppName) error // its Machines are destroyed with it
}

// Bidder answers Asks. A worker answers with one Bid or one Refusal; a market with those of all its workers.
type Bidder interface {
	Ask(ctx context.Context, ask Ask) (Auction, error)
}

// Market is the read side of placement.
type Market interface {
	Bidder
	Placements(ctx context.Context, req PlacementsRequest) ([]Placement, error)
	Regions(ctx context.Context) ([]RegionInfo, error)
}

// Watcher streams what changes.
//
// A stream begins with one Change for every Machine there is, then, for each worker, one with Synced, and goes on with changes as they
// happen. It ends (the channel closes) when ctx does, when a worker's sequence has a gap or the reader is too slow: watch again and take the
// new beginning as the whole truth.
type Watcher interface {
	Watch(ctx context.Context, req WatchRequest) (<-chan Change, error)
}

// WatchRequest narrows a watch; zero fields do not.
type WatchRequest struct {
	Metadata map[string]string // only Machines with these
	Offers   bool              // standing offers too
}

// Change is one event of a watch; exactly one of Machine, Offer, Synced, Lost and Heartbeat is set.
type Change struct {
	Worker    WorkerName `json:"worker"`
	Machine   *Machine   `json:"machine,omitempty"` // its new state; State Destroyed is its last
	Offer     *Offer     `json:"offer,omitempty"`
	Synced    bool       `json:"synced,omitempty"` // all of this worker's Machines have been sent
	Lost      bool       `json:"lost,omitempty"`   // this worker does not answer; Synced follows when it is back
	Heartbeat bool       `json:"heartbeat,omitempty"`
}

// Logs reads what containers wrote.
type Logs interface {
	// Logs returns lines, each "<RFC 3339 time> <stdout|stderr> <F|P> <text>\n" (the CRI format) in raw form, or as asked. The reader ends
	// at the end of the log, with Follow when the container has ended or ctx does.
	Logs(ctx context.Context, ref Ref, opts LogOptions) (io.ReadCloser, error)
}

// LogOptions says which part of a log, and how.
type LogOptions struct {
	Container  string    // If empty, the first that is not an init container.
	Previous   bool      // of the run before the present one
	Follow     bool      // go on while the container runs
	Timestamps bool      // begin each line with its time
	Since      time.Time // If zero, from the beginning.
	Tail       *int64    // only the last so many lines
	LimitBytes int64     // If zero, not limited.
	Stream     string    // "stdout", "stderr"; if empty, both
	CRI        bool      // lines as they are stored
}

// Streams connects to what runs.
type Streams interface {
	// ExecStream runs a command with its streams connected, to its end.
	ExecStream(ctx context.Context, ref Ref, opts ExecOptions, io ExecIO) (ExitStatus, error)
	// Attach connects to a container's own streams until it ends or ctx does.
	Attach(ctx context.Context, ref Ref, container string, io ExecIO) (ExitStatus, error)
	// Dial connects to a TCP port inside the Machine, on its loopback too.
	Dial(ctx context.Context, ref Ref, port int) (io.ReadWriteCloser, error)
}

// ExecOptions says what to run.
type ExecOptions struct {
	Container string   `json:"container,omitempty"` // If empty, the first that is not an init container.
	Command   []string `json:"command"`
	TTY       bool     `json:"tty,omitempty"`
	Stdin     bool     `json:"stdin,omitempty"`
}

// ExecIO are the streams of a command; nil ones are not connected.
type ExecIO struct {
	Stdin  io.Reader
	Stdout io.Writer // with a TTY, stderr as well
	Stderr io.Writer
	Resize <-chan TerminalSize // with a TTY
}

// TerminalSize is in characters.
type TerminalSize struct {
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// ExitStatus is how a command ended.
type ExitStatus struct {
	Code   int `json:"code"`
	Signal int `json:"signal,omitempty"` // Code is then 128 + Signal
}

// Files refreshes the contents that a Machine got beside its Config.
type Files interface {
	// PutPayload replaces the Payload, or what a Partial one names of it; files of its volumes are swapped atomically, as a kubelet does. Variables and credentials count from
	// the next start of a container. It makes no new Version.
	PutPayload(ctx context.Context, ref Ref, p Payload) error
	// PutSecrets replaces the App's secrets that the Machine has, from its next start on. A server does it before it starts one; it makes no new
	// Version.
	PutSecrets(ctx context.Context, ref Ref, set SecretSet) error
}

// Services keeps virtual addresses that lead to Machines.
type Services interface {
	// SetServices replaces all virtual services of a network (an App's Network name). Doing it again is harmless.
	SetServices(ctx context.Context, network string, services []VirtualService) error
	// Entrances tells where the world can come in: one Entrance per host, and what of the services that were set could not be opened there.
	Entrances(ctx context.Context) ([]Entrance, error)
}

// VirtualService is a set of virtual addresses whose ports lead to Machines: a Kubernetes Service.
type VirtualService struct {
	Name      string        `json:"name"` // for people: "default/hello"
	Addresses []netip.Addr  `json:"addresses"`
	Ports     []VirtualPort `json:"ports"`
	Affinity  int           `json:"affinity,omitempty"` // seconds during which a client keeps its backend; if zero, none
	Public    *Public       `json:"public,omitempty"`   // how the world comes in, beside node ports; if nil, not at all
}

// VirtualPort is one port of a VirtualService. Backends of the family of the address are used; none: connections are refused at once.
type VirtualPort struct {
	Protocol string           `json:"protocol"` // tcp or udp
	Port     uint16           `json:"port"`
	Backends []netip.AddrPort `json:"backends"`
	// NodePort is a port of every address of the host that leads to the same backends, for everybody; if zero, there is none.
	NodePort uint16 `json:"node_port,omitempty"`
}

// Images is a worker's image store, for `gondola image`.
type Images interface {
	ImportImage(ctx context.Context, archive io.Reader, reference string) ([]ImageInfo, error) // docker-archive or OCI layout, tar
	ListImages(ctx context.Context) ([]ImageInfo, error)
	PruneImages(ctx context.Context) (freedBytes int64, err error) // those that no Machine uses
}

// ImageInfo is an image in a store.
type ImageInfo struct {
	Reference string     `json:"reference"`
	Digest    string     `json:"digest"`
	SizeBytes int64      `json:"size_bytes"`
	LastUsed  time.Time  `json:"last_used"`
	Worker    WorkerName `json:"worker,omitempty"`
}

// Offered lists which of the contracts beyond Fly.io's API a server has (GET /v1/gondola).
type Offered struct {
	Version   string          `json:"version"`
	Contracts []string        `json:"contracts"` // "watch", "logs", "streams", "files", "containers", "sizes", "services", "policies", "images", "ask", "stats", "volumes", "suspend"
	Info      json.RawMessage `json:"info,omitempty"`
}

// Platform is every contract that a worker does, a market routes and a client carries.
type Platform interface {
	Machines
	Leases
	Bidder
	Watcher
	Logs
	Streams
	Files
	Containers
	Sizes
	Services
	Policies
	Images
	Stats
	Volumes
}

// Server is what the API of a whole platform serves.
type Server interface {
	Platform
	Apps
	Market
	NetworkPolicies
	Secrets
}
