package gondola

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"
)

// Config says what a Machine runs. The JSON is the API's fly.MachineConfig, with `volumes` and `containers[].mounts` as only fly-go has them,
// and the optional `gondola` objects of extension.go.
type Config struct {
	Image            string            `json:"image,omitempty"` // OCI reference; the registry defaults to docker.io
	Env              map[string]string `json:"env,omitempty"`
	Init             Init              `json:"init"`
	Guest            *Guest            `json:"guest,omitempty"`
	Size             string            `json:"size,omitempty"` // deprecated preset name, used where guest is missing
	Files            []File            `json:"files,omitempty"`
	Mounts           []VolumeMount     `json:"mounts,omitempty"`
	Services         []Service         `json:"services,omitempty"`
	Checks           map[string]Check  `json:"checks,omitempty"`
	Statics          []Static          `json:"statics,omitempty"`
	Metrics          *Metrics          `json:"metrics,omitempty"`
	Metadata         map[string]string `json:"metadata,omitempty"`
	Processes        []Process         `json:"processes,omitempty"`
	Containers       []Container       `json:"containers,omitempty"`
	Volumes          []TempVolume      `json:"volumes,omitempty"`
	Restart          *RestartPolicy    `json:"restart,omitempty"`
	StopConfig       *StopConfig       `json:"stop_config,omitempty"`
	DNS              *DNSConfig        `json:"dns,omitempty"`
	AutoDestroy      bool              `json:"auto_destroy,omitempty"`
	Schedule         string            `json:"schedule,omitempty"`
	Standbys         []string          `json:"standbys,omitempty"`
	Rootfs           *Rootfs           `json:"rootfs,omitempty"`
	CacheDrive       *CacheDrive       `json:"cache_drive,omitempty"`
	Spot             *Spot             `json:"spot,omitempty"`
	DisableAutostart bool              `json:"disable_machine_autostart,omitempty"` // deprecated
	Gondola          *ConfigExtension  `json:"gondola,omitempty"`
}

// Init overrides what the image says about the main process.
type Init struct {
	Exec       []string `json:"exec,omitempty"`       // replaces entrypoint and cmd
	Entrypoint []string `json:"entrypoint,omitempty"` // replaces the image's
	Cmd        []string `json:"cmd,omitempty"`        // replaces the image's
	TTY        bool     `json:"tty,omitempty"`
	SwapSizeMB int      `json:"swap_size_mb,omitempty"`
	KernelArgs []string `json:"kernel_args,omitempty"`
}

// File is written into the Machine before it starts.
type File struct {
	GuestPath   string         `json:"guest_path"`          // absolute
	RawValue    string         `json:"raw_value,omitempty"` // base64
	SecretName  string         `json:"secret_name,omitempty"`
	ImageConfig string         `json:"image_config,omitempty"`
	Mode        uint32         `json:"mode,omitempty"` // permission bits; if zero, 0644
	Gondola     *FileExtension `json:"gondola,omitempty"`
}

// VolumeMount mounts a Volume of the platform: with a Path in every container; without one it is only offered, and containers mount it by its
// name as they mount a TempVolume.
type VolumeMount struct {
	Volume                 string `json:"volume,omitempty"` // its id; or its name, of which one that is free is taken
	Name                   string `json:"name,omitempty"`   // by which containers mount it; without Volume also the Volume's name
	Path                   string `json:"path,omitempty"`   // absolute
	SizeGB                 int    `json:"size_gb,omitempty"`
	Encrypted              bool   `json:"encrypted,omitempty"`
	ExtendThresholdPercent int    `json:"extend_threshold_percent,omitempty"`
	AddSizeGB              int    `json:"add_size_gb,omitempty"`
	AddSizePercent         int    `json:"add_size_percent,omitempty"`
	MinAddSizeGB           int    `json:"min_add_size_gb,omitempty"`
	SizeGBLimit            int    `json:"size_gb_limit,omitempty"`

	Gondola *VolumeMountExtension `json:"gondola,omitempty"`
}

// Label is the name by which containers mount it.
func (m VolumeMount) Label() string {
	if m.Name != "" {
		return m.Name
	}
	return m.Volume
}

// Wanted returns the id of the Volume, or else the name of those of which a free one is wanted.
func (m VolumeMount) Wanted() (id VolumeID, name string) {
	switch {
	case IsVolumeID(m.Volume):
		return VolumeID(m.Volume), ""
	case m.Volume != "":
		return "", m.Volume
	}
	return "", m.Name
}

// Service is a port that the proxy publishes.
type Service struct {
	Protocol                 string            `json:"protocol,omitempty"`
	InternalPort             int               `json:"internal_port,omitempty"`
	Ports                    []json.RawMessage `json:"ports,omitempty"`
	Checks                   []Check           `json:"checks,omitempty"`
	Concurrency              json.RawMessage   `json:"concurrency,omitempty"`
	Autostop                 *Autostop         `json:"autostop,omitempty"`
	Autostart                *bool             `json:"autostart,omitempty"`
	MinMachinesRunning       *int              `json:"min_machines_running,omitempty"`
	ForceInstanceKey         *string           `json:"force_instance_key"`
	ForceInstanceDescription string            `json:"force_instance_description,omitempty"`
}

// Autostop is "off", "stop" or "suspend"; on the wire also a boolean, and it is printed as false, true or "suspend" (fly-go, trap 11).
type Autostop string

func (a Autostop) MarshalJSON() ([]byte, error) {
	switch a {
	case "suspend":
		return []byte(`"suspend"`), nil
	case "stop":
		return []byte("true"), nil
	default:
		return []byte("false"), nil
	}
}

func (a *Autostop) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true", `"stop"`:
		*a = "stop"
	case "false", `"off"`, "null", `""`:
		*a = "off"
	case `"suspend"`:
		*a = "suspend"
	default:
		return fmt.Errorf("autostop %s: want off, stop or suspend", b)
	}
	return nil
}

// Check is a health probe of a Machine, in its own right or of a Service.
type Check struct {
	Type          string       `json:"type,omitempty"` // "tcp" or "http"
	Port          int          `json:"port,omitempty"`
	Interval      *Duration    `json:"interval,omitempty"`
	Timeout       *Duration    `json:"timeout,omitempty"`
	GracePeriod   *Duration    `json:"grace_period,omitempty"`
	Method        string       `json:"method,omitempty"`
	Path          string       `json:"path,omitempty"`
	Protocol      string       `json:"protocol,omitempty"`
	TLSSkipVerify bool         `json:"tls_skip_verify,omitempty"`
	TLSServerName string       `json:"tls_server_name,omitempty"`
	Headers       []HTTPHeader `json:"headers,omitempty"`
	Kind          string       `json:"kind,omitempty"` // "informational" (default) or "readiness"
}

// HTTPHeader is a header that a probe sends.
type HTTPHeader struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Static serves files of the Machine at the edge.
type Static struct {
	GuestPath     string `json:"guest_path"`
	URLPrefix     string `json:"url_prefix"`
	TigrisBucket  string `json:"tigris_bucket,omitempty"`
	IndexDocument string `json:"index_document,omitempty"`
}

// Metrics says where the Machine serves Prometheus metrics.
type Metrics struct {
	Port  int    `json:"port"`
	Path  string `json:"path"`
	HTTPS bool   `json:"https,omitempty"`
}

// Process is one of several main processes in a Machine of one image.
type Process struct {
	Exec             []string          `json:"exec,omitempty"`
	Entrypoint       []string          `json:"entrypoint,omitempty"`
	Cmd              []string          `json:"cmd,omitempty"`
	User             string            `json:"user,omitempty"`
	Env              map[string]string `json:"env,omitempty"`
	Secrets          []SecretRef       `json:"secrets,omitempty"`
	IgnoreAppSecrets bool              `json:"ignore_app_secrets,omitempty"`
	EnvFrom          []EnvFrom         `json:"env_from,omitempty"`
}

// SecretRef puts an App's secret into an environment variable.
type SecretRef struct {
	EnvVar string `json:"env_var"`
	Name   string `json:"name"`
}

// EnvFrom puts a fact about the Machine into an environment variable.
type EnvFrom struct {
	EnvVar   string `json:"env_var"`
	FieldRef string `json:"field_ref"` // id, version, app_name, private_ip, region or image
}

// Container is one container of a Machine that has several.
type Container struct {
	Name         string              `json:"name"` // unique in the Machine
	Image        string              `json:"image"`
	Exec         []string            `json:"exec,omitempty"`
	Entrypoint   []string            `json:"entrypoint,omitempty"`
	Cmd          []string            `json:"cmd,omitempty"`
	User         string              `json:"user,omitempty"` // as in an image: name or number, optional :group
	Env          map[string]string   `json:"env,omitempty"`
	EnvFrom      []EnvFrom           `json:"env_from,omitempty"`
	Secrets      []SecretRef         `json:"secrets,omitempty"`
	Files        []File              `json:"files,omitempty"`
	Mounts       []ContainerMount    `json:"mounts,omitempty"`
	Restart      *RestartPolicy      `json:"restart,omitempty"`
	Stop         *StopConfig         `json:"stop,omitempty"`
	DependsOn    []Dependency        `json:"depends_on,omitempty"`
	Healthchecks []Healthcheck       `json:"healthchecks,omitempty"`
	Gondola      *ContainerExtension `json:"gondola,omitempty"`
}

// ContainerMount mounts one of the Config's Volumes into a container.
type ContainerMount struct {
	Name    string          `json:"name"` // of the volume
	Path    string          `json:"path"` // absolute, in the container
	Gondola *MountExtension `json:"gondola,omitempty"`
}

// Dependency says that a container starts only after another one has reached a condition.
type Dependency struct {
	Name      string              `json:"name"`
	Condition DependencyCondition `json:"condition,omitempty"` // If empty, DependsStarted.
}

// DependencyCondition is what a container waits for.
type DependencyCondition string

const (
	DependsStarted DependencyCondition = "started"
	DependsHealthy DependencyCondition = "healthy"             // its startup and readiness probes have passed
	DependsExited  DependencyCondition = "exited_successfully" // it ended with code 0: an init container
)

// Healthcheck is a probe of one container. Durations are in seconds.
type Healthcheck struct {
	Name             string                `json:"name"`
	Kind             string                `json:"kind,omitempty"`              // "readiness" (default) or "liveness"
	Interval         int                   `json:"interval,omitempty"`          // If zero, 10.
	GracePeriod      int                   `json:"grace_period,omitempty"`      // before the first probe
	Timeout          int                   `json:"timeout,omitempty"`           // If zero, 1.
	SuccessThreshold int                   `json:"success_threshold,omitempty"` // If zero, 1.
	FailureThreshold int                   `json:"failure_threshold,omitempty"` // If zero, 3.
	Unhealthy        string                `json:"unhealthy,omitempty"`         // "stop": a failed liveness probe ends the container
	HTTP             *HTTPProbe            `json:"http,omitempty"`
	TCP              *TCPProbe             `json:"tcp,omitempty"`
	Exec             *ExecProbe            `json:"exec,omitempty"`
	Gondola          *HealthcheckExtension `json:"gondola,omitempty"`
}

// HTTPProbe passes on a status of 200 to 399.
type HTTPProbe struct {
	Port          int          `json:"port"`
	Method        string       `json:"method,omitempty"` // If empty, GET.
	Path          string       `json:"path,omitempty"`   // If empty, "/".
	Headers       []HTTPHeader `json:"headers,omitempty"`
	Scheme        string       `json:"scheme,omitempty"` // "http" (default) or "https"
	TLSSkipVerify *bool        `json:"tls_skip_verify,omitempty"`
	TLSServerName string       `json:"tls_server_name,omitempty"`
}

// TCPProbe passes when the port accepts a connection.
type TCPProbe struct {
	Port int `json:"port"`
}

// ExecProbe passes when the command, run in the container, exits with 0.
type ExecProbe struct {
	Command []string `json:"command"`
}

// TempVolume lives as long as its Machine and is shared by the containers that mount it: Kubernetes' emptyDir. (In fly-go only.) With
// neither source, its contents come from the Payload of this name.
type TempVolume struct {
	Name    string   `json:"name"`
	TempDir *TempDir `json:"temp_dir,omitempty"`
	Image   string   `json:"image,omitempty"` // a read-only image

	Gondola *TempVolumeExtension `json:"gondola,omitempty"`
}

// TempDir is an empty directory at first.
type TempDir struct {
	StorageType string `json:"storage_type,omitempty"` // "disk" (default) or "memory"
	SizeMB      int    `json:"size_mb,omitempty"`      // If zero, not limited.
}

// RestartPolicy says when a container, or the Machine's main process, is started again.
type RestartPolicy struct {
	Policy     string `json:"policy,omitempty"`      // "no", "always" or "on-failure" (default)
	MaxRetries int    `json:"max_retries,omitempty"` // for on-failure; if zero, 10. Negative: without end (Kubernetes).
}

// Restart policies.
const (
	RestartNo        = "no"
	RestartAlways    = "always"
	RestartOnFailure = "on-failure"
)

// StopConfig says how a process is asked to end.
type StopConfig struct {
	Signal  *Signal   `json:"signal,omitempty"`  // If nil, SIGINT for Machines, SIGTERM for containers.
	Timeout *Duration `json:"timeout,omitempty"` // until SIGKILL; if nil, 5 s; at most 300 s
}

// DNSConfig shapes /etc/resolv.conf and the hostname.
type DNSConfig struct {
	SkipRegistration bool          `json:"skip_registration,omitempty"`
	Nameservers      []string      `json:"nameservers,omitempty"`
	Searches         []string      `json:"searches,omitempty"`
	Options          []DNSOption   `json:"options,omitempty"`
	ForwardRules     []ForwardRule `json:"dns_forward_rules,omitempty"`
	Hostname         string        `json:"hostname,omitempty"`
	HostnameFQDN     string        `json:"hostname_fqdn,omitempty"`
}

// DNSOption is an option line of resolv.conf.
type DNSOption struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

// ForwardRule sends the names under a base name to another resolver.
type ForwardRule struct {
	Basename string `json:"basename"`
	Addr     string `json:"addr"`
}

// Rootfs shapes the root file system.
type Rootfs struct {
	Persist any `json:"persist,omitempty"` // "never", "always", "restart", or protobuf's 0..3
	SizeGB  int `json:"size_gb,omitempty"`
}

// CacheDrive is a scratch disk.
type CacheDrive struct {
	SizeMB int `json:"size_mb"`
}

// Spot bids for spare capacity.
type Spot struct {
	MaxPriceFraction float64 `json:"max_price_fraction"`
}

// Duration is a time.Duration that reads a Go duration string or integer nanoseconds and prints a string (fly-go, trap 10).
type Duration time.Duration

func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

func (d *Duration) UnmarshalJSON(b []byte) error {
	var n int64
	if json.Unmarshal(b, &n) == nil {
		*d = Duration(n)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration %s: want a string such as \"15s\" or nanoseconds", b)
	}
	if s == "" {
		*d = 0
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q: want a string such as \"15s\"", s)
	}
	*d = Duration(v)
	return nil
}

// Signal is a signal's name, "SIGTERM"; on input also without SIG or as a number (fly-go's Kill sends 9, trap 3).
type Signal string

var signalNumbers = map[Signal]int{
	"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGFPE": 8, "SIGKILL": 9, "SIGUSR1": 10, "SIGSEGV": 11,
	"SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15, "SIGCONT": 18, "SIGSTOP": 19, "SIGWINCH": 28,
}

// Number returns the signal's number on Linux, 0 if unknown.
func (s Signal) Number() int { return signalNumbers[s] }

func (s *Signal) UnmarshalJSON(b []byte) error {
	var n int
	if json.Unmarshal(b, &n) == nil {
		for name, num := range signalNumbers {
			if num == n {
				*s = name
				return nil
			}
		}
		return fmt.Errorf("signal %d is not known", n)
	}
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return fmt.Errorf("signal %s: want a name such as \"SIGTERM\"", b)
	}
	v, err := ParseSignal(name)
	*s = v
	return err
}

// ParseSignal reads "SIGTERM", "TERM" or "term"; the empty string is the empty Signal.
func ParseSignal(name string) (Signal, error) {
	if name == "" {
		return "", nil
	}
	s := Signal(strings.ToUpper(name))
	if !strings.HasPrefix(string(s), "SIG") {
		s = "SIG" + s
	}
	if s.Number() == 0 {
		return "", Errorf(ErrInvalid, "signal %q is not known: use a name such as SIGTERM", name)
	}
	return s, nil
}

// Requests returns what the Machine reserves and what it may use at most; a limit of zero is none.
func (c *Config) Requests() (requests, limits Resources) {
	if c.Gondola != nil && c.Gondola.Requests != nil {
		requests = *c.Gondola.Requests
		if c.Gondola.Limits != nil {
			limits = *c.Gondola.Limits
		}
	} else {
		g := c.Guest
		if g == nil {
			p, ok := GuestPreset(c.Size)
			if !ok {
				p, _ = GuestPreset("shared-cpu-1x")
			}
			g = &p
		}
		requests, limits = g.Resources()
	}
	if requests.CPUMillis == 0 && requests.MemoryBytes == 0 {
		requests = Overhead
	}
	return requests, limits
}

// AllContainers returns the Machine's containers: those of the Config, or the one that image and init describe, named "main".
func (c *Config) AllContainers() []Container {
	if len(c.Containers) > 0 {
		return c.Containers
	}
	main := Container{Name: "main", Image: c.Image, Exec: c.Init.Exec, Entrypoint: c.Init.Entrypoint, Cmd: c.Init.Cmd, Env: c.Env,
		Files: c.Files, Restart: c.Restart, Stop: c.StopConfig}
	if c.Init.TTY {
		main.Gondola = &ContainerExtension{TTY: true}
	}
	return []Container{main}
}

// Validate returns an ErrInvalid that names the first field that cannot be, or nil.
func (c *Config) Validate() error {
	if c.Image == "" && len(c.Containers) == 0 {
		return Errorf(ErrInvalid, "config.image is missing: name an OCI image such as gondola.local/hello")
	}
	if c.Size != "" && c.Guest == nil {
		if _, ok := GuestPreset(c.Size); !ok {
			return Errorf(ErrInvalid, "config.size %q is not a known size: use one such as shared-cpu-1x, or config.guest", c.Size)
		}
	}
	if g := c.Guest; g != nil {
		if g.CPUKind != "" && g.CPUKind != "shared" && g.CPUKind != "performance" {
			return Errorf(ErrInvalid, "config.guest.cpu_kind %q: use shared or performance", g.CPUKind)
		}
		if g.CPUs < 0 || g.MemoryMB < 0 {
			return Errorf(ErrInvalid, "config.guest: cpus and memory_mb must not be negative")
		}
	}
	if err := c.Restart.validate("config.restart"); err != nil {
		return err
	}
	volumes := map[string]bool{}
	for i, v := range c.Volumes {
		if v.Name == "" || volumes[v.Name] {
			return Errorf(ErrInvalid, "config.volumes[%d].name %q is empty or used twice", i, v.Name)
		}
		volumes[v.Name] = true
		if t := v.TempDir; t != nil && t.StorageType != "" && t.StorageType != "disk" && t.StorageType != "memory" {
			return Errorf(ErrInvalid, "config.volumes[%d].temp_dir.storage_type %q: use disk or memory", i, t.StorageType)
		}
	}
	if err := c.validateMounts(volumes); err != nil {
		return err
	}
	if err := c.validateGateway(); err != nil {
		return err
	}
	seen := map[string]int{}
	for i, k := range c.AllContainers() {
		at := fmt.Sprintf("config.containers[%d]", i)
		if k.Name == "" || strings.ContainsAny(k.Name, "/ \x00") || len(k.Name) > 63 {
			return Errorf(ErrInvalid, "%s.name %q: use 1 to 63 characters without blanks and slashes", at, k.Name)
		}
		if _, twice := seen[k.Name]; twice {
			return Errorf(ErrInvalid, "%s.name %q is used twice", at, k.Name)
		}
		if k.Image == "" {
			return Errorf(ErrInvalid, "%s.image is missing", at)
		}
		for name := range k.Env {
			if name == "" || strings.ContainsAny(name, "=\x00") {
				return Errorf(ErrInvalid, "%s.env: %q cannot be the name of a variable", at, name)
			}
		}
		for j, m := range k.Mounts {
			if !volumes[m.Name] {
				return Errorf(ErrInvalid, "%s.mounts[%d].name %q is not one of config.volumes or config.mounts", at, j, m.Name)
			}
			if !path.IsAbs(m.Path) {
				return Errorf(ErrInvalid, "%s.mounts[%d].path %q must be absolute", at, j, m.Path)
			}
		}
		for j, f := range k.Files {
			if !path.IsAbs(f.GuestPath) {
				return Errorf(ErrInvalid, "%s.files[%d].guest_path %q must be absolute", at, j, f.GuestPath)
			}
		}
		if err := k.Restart.validate(at + ".restart"); err != nil {
			return err
		}
		seen[k.Name] = i
	}
	return validateOrder(c.AllContainers(), seen)
}

// validateMounts checks the mounts of Volumes and adds their names to those that containers may mount.
func (c *Config) validateMounts(names map[string]bool) error {
	seen := map[VolumeID]bool{}
	for i, m := range c.Mounts {
		at := fmt.Sprintf("config.mounts[%d]", i)
		id, name := m.Wanted()
		switch {
		case id == "" && name == "":
			return Errorf(ErrInvalid, "%s.volume is missing: name a volume by its id (vol_…) or name", at)
		case m.Path == "" && m.Name == "":
			return Errorf(ErrInvalid, "%s.path is missing: say where to mount %s, or give it a name that containers mount", at, m.Volume)
		case m.Path != "" && (!path.IsAbs(m.Path) || path.Clean(m.Path) == "/"):
			return Errorf(ErrInvalid, "%s.path %q must be absolute and not /", at, m.Path)
		case id != "" && seen[id]:
			return Errorf(ErrInvalid, "%s.volume %s is mounted twice", at, id)
		case names[m.Label()]:
			return Errorf(ErrInvalid, "%s.name %q is used twice", at, m.Label())
		}
		if x := m.Gondola; x != nil && x.GroupChangePolicy != "" && x.GroupChangePolicy != "always" && x.GroupChangePolicy != "on_root_mismatch" {
			return Errorf(ErrInvalid, "%s.gondola.group_change_policy %q: use always or on_root_mismatch", at, x.GroupChangePolicy)
		}
		names[m.Label()] = true
		if id != "" {
			seen[id] = true
		}
	}
	return nil
}

func (r *RestartPolicy) validate(at string) error {
	if r == nil {
		return nil
	}
	switch r.Policy {
	case "", RestartNo, RestartAlways, RestartOnFailure:
		return nil
	}
	return Errorf(ErrInvalid, "%s.policy %q: use no, always or on-failure", at, r.Policy)
}

// validateOrder refuses unknown names and circles in depends_on.
func validateOrder(cs []Container, index map[string]int) error {
	const visiting, done = 1, 2
	mark := make([]int, len(cs))
	var visit func(i int) error
	visit = func(i int) error {
		mark[i] = visiting
		for _, d := range cs[i].DependsOn {
			j, ok := index[d.Name]
			if !ok {
				return Errorf(ErrInvalid, "config.containers[%d].depends_on: there is no container %q", i, d.Name)
			}
			switch d.Condition {
			case "", DependsStarted, DependsHealthy, DependsExited:
			default:
				return Errorf(ErrInvalid, "config.containers[%d].depends_on.condition %q: use started, healthy or exited_successfully", i, d.Condition)
			}
			if mark[j] == visiting {
				return Errorf(ErrInvalid, "config.containers: %q and %q wait for each other", cs[i].Name, d.Name)
			}
			if mark[j] == 0 {
				if err := visit(j); err != nil {
					return err
				}
			}
		}
		mark[i] = done
		return nil
	}
	for i := range cs {
		if mark[i] == 0 {
			if err := visit(i); err != nil {
				return err
			}
		}
	}
	return nil
}
