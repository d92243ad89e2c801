package gondola

import (
	"encoding/json"
	"fmt"
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
	ImageConfig string         `json:"image_config,omitempty"` // OCI reference: the contents are the OCI config of this image, as its registry has it
	Mode        uint32         `json:"mode,omitempty"`         // permission bits; if zero, 0644
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

// Metrics says where the Machine serves metrics in Prometheus' text format: a Platform asks it when it is asked for them itself.
type Metrics struct {
	Port  int    `json:"port"`            // 1 to 65535, on all addresses or on loopback
	Path  string `json:"path"`            // begins with "/"
	HTTPS bool   `json:"https,omitempty"` // the certificate is not looked at
}

// Process is one of several main processes in a Machine of one image. Without exec, entrypoint and cmd it runs what the Config's init says.
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
	Image   string   `json:"image,omitempty"` // OCI reference: the files of this image, read-only

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

// CacheDrive is a scratch disk.
type CacheDrive struct {
	SizeMB int `json:"size_mb"`
}

// Spot bids for spare capacity.
type Spot struct {
	MaxPriceFraction float64 `json:"max_price_fraction"`
}

// Requests returns what the Machine reserves and what it may use at most; a limit of zero is none.
func (c *Config) Requests() (requests, limits Resources) {
	if c.Gondola != nil && c.Gondola.Requests != nil {
		requests = *c.Gondola.Requests
		if c.Gondola.Limits != nil {
			limits = *c.Gondola.Limits
		}
	} else {
		requests, limits = c.guest().Resources()
	}
	if requests.CPUMillis == 0 && requests.MemoryBytes == 0 {
		requests = Overhead
	}
	return requests, limits
}

// guest is the size that the Config names, or the smallest.
func (c *Config) guest() Guest {
	if c.Guest != nil {
		return *c.Guest
	}
	g, ok := GuestPreset(c.Size)
	if !ok {
		g, _ = GuestPreset("shared-cpu-1x")
	}
	return g
}

// AllContainers returns the Machine's containers: those of the Config; or one for each of its processes, named "process-1" and on, of one image
// and each in a root file system of its own; or the one that image and init describe, named "main".
func (c *Config) AllContainers() []Container {
	if len(c.Containers) > 0 {
		return c.Containers
	}
	restart := c.Restart
	if c.Schedule != "" && restart != nil && restart.Policy == RestartAlways { // it has to end before it can be started on time
		restart = &RestartPolicy{Policy: RestartOnFailure, MaxRetries: restart.MaxRetries}
	}
	main := Container{Name: "main", Image: c.Image, Exec: c.Init.Exec, Entrypoint: c.Init.Entrypoint, Cmd: c.Init.Cmd, Env: c.Env,
		Files: c.Files, Restart: restart, Stop: c.StopConfig}
	if c.Init.TTY {
		main.Gondola = &ContainerExtension{TTY: true}
	}
	if len(c.Processes) == 0 {
		return []Container{main}
	}
	all := make([]Container, len(c.Processes))
	for i, p := range c.Processes {
		k := main
		k.Name, k.Env, k.User, k.EnvFrom, k.Secrets = fmt.Sprintf("process-%d", i+1), p.Env, p.User, p.EnvFrom, p.Secrets
		if len(p.Exec)+len(p.Entrypoint)+len(p.Cmd) > 0 {
			k.Exec, k.Entrypoint, k.Cmd = p.Exec, p.Entrypoint, p.Cmd
		}
		all[i] = k
	}
	return all
}
