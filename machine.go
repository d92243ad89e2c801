package gondola

import (
	"encoding/json"
	"time"
)

// Machine is one guest with its Config. The JSON is the API's Machine.
type Machine struct {
	ID         MachineID `json:"id"`
	Name       string    `json:"name"`
	State      State     `json:"state"`
	Region     Region    `json:"region"`
	InstanceID Version   `json:"instance_id"` // deprecated twin of Version
	Version    Version   `json:"version"`
	PrivateIP  string    `json:"private_ip"` // 6PN address, from the create on
	ImageRef   ImageRef  `json:"image_ref"`
	Config     *Config   `json:"config,omitempty"`
	// IncompleteConfig is, on the wire, what is known of the Config while HostStatus is not ok, instead of it.
	IncompleteConfig *Config `json:"incomplete_config,omitempty"`

	CreatedAt  time.Time          `json:"created_at"`
	UpdatedAt  time.Time          `json:"updated_at"`
	Events     []Event            `json:"events"` // newest first, at most 20
	Checks     []CheckStatus      `json:"checks,omitempty"`
	Cordoned   bool               `json:"cordoned,omitempty"` // its services get no new connections
	Lease      *Lease             `json:"lease,omitempty"`    // who holds it, without its nonce; only where ListFilter.IncludeLeases asked for it
	Nonce      string             `json:"nonce,omitempty"`    // of the Lease that a CreateRequest.LeaseTTL made: only in the answer to that
	HostStatus string             `json:"host_status"`        // ok, unknown or unreachable
	Containers []MachineContainer `json:"containers,omitempty"`
	Gondola    *MachineExtension  `json:"gondola,omitempty"`
}

// Ref returns the Machine's App and id.
func (m *Machine) Ref() Ref {
	r := Ref{ID: m.ID}
	if m.Gondola != nil {
		r.App = m.Gondola.App
	}
	return r
}

// Ref names a Machine in an App.
type Ref struct {
	App AppName   `json:"app"`
	ID  MachineID `json:"id"`
}

func (r Ref) String() string { return string(r.App) + "/" + string(r.ID) }

// ImageRef is an image reference in its parts.
type ImageRef struct {
	Registry   string            `json:"registry"`
	Repository string            `json:"repository"`
	Tag        string            `json:"tag,omitempty"`
	Digest     string            `json:"digest,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// MachineContainer is the API's short status of a container.
type MachineContainer struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

// Event is something that was done to a Machine (reference: fly-go's MachineEvent).
type Event struct {
	ID        string          `json:"id"`        // ULID
	Type      string          `json:"type"`      // launch, start, update, restart, exit, suspend, destroy, …
	Status    string          `json:"status"`    // the state it led to
	Source    string          `json:"source"`    // user, flyd or proxy
	Timestamp int64           `json:"timestamp"` // milliseconds since 1970
	Request   json.RawMessage `json:"request,omitempty"`
}

// ExitEvent is the request of an Event of type "exit".
type ExitEvent struct {
	ExitEvent    ExitDetails `json:"exit_event"`
	RestartCount int         `json:"restart_count"`
}

// ExitDetails tells how a Machine's main process ended.
type ExitDetails struct {
	ExitCode      int       `json:"exit_code"`
	GuestExitCode int       `json:"guest_exit_code"`
	GuestSignal   int       `json:"guest_signal"` // -1 if none
	Signal        int       `json:"signal"`       // -1 if none
	OOMKilled     bool      `json:"oom_killed"`
	RequestedStop bool      `json:"requested_stop"`
	Restarting    bool      `json:"restarting"`
	ExitedAt      time.Time `json:"exited_at"` // RFC 3339 (fly-go, trap 9)
}

// ProcessStat is a process in a Machine.
type ProcessStat struct {
	PID           int            `json:"pid"`
	STime         int64          `json:"stime"`
	RTime         int64          `json:"rtime"`
	Command       string         `json:"command"`
	Directory     string         `json:"directory"`
	CPU           int64          `json:"cpu"`
	RSS           int64          `json:"rss"`
	ListenSockets []ListenSocket `json:"listen_sockets"`
}

// ListenSocket is a port that a process listens on.
type ListenSocket struct {
	Proto   string `json:"proto"`
	Address string `json:"address"`
}
