package gondola

import (
	"encoding/base64"
	"fmt"
	"path"
	"strings"
	"time"
)

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
	if err := c.validateGuest(); err != nil {
		return err
	}
	if err := c.validateLife(); err != nil {
		return err
	}
	if err := c.validateChecks(); err != nil {
		return err
	}
	for i, s := range c.Services {
		if s.InternalPort < 0 || s.InternalPort > 65535 {
			return Errorf(ErrInvalid, "config.services[%d].internal_port %d: use 1 to 65535", i, s.InternalPort)
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
		if x := v.Gondola; v.Image != "" && (v.TempDir != nil || x != nil && (x.Path != "" || x.Type != "")) {
			return Errorf(ErrInvalid, "config.volumes[%d]: use one of temp_dir, image and gondola.path", i)
		}
		if p := v.PullPolicy(); v.Image != "" && p != "always" && p != "if_not_present" && p != "never" {
			return Errorf(ErrInvalid, "config.volumes[%d].gondola.pull_policy %q: use always, if_not_present or never", i, p)
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
			if _, err := base64.StdEncoding.DecodeString(f.RawValue); err != nil {
				return Errorf(ErrInvalid, "%s.files[%d].raw_value is not base64: %w", at, j, err)
			}
			if f.ImageConfig != "" && (f.RawValue != "" || f.SecretName != "") {
				return Errorf(ErrInvalid, "%s.files[%d]: use one of raw_value, secret_name and image_config", at, j)
			}
			if f.Mode > 0o7777 {
				return Errorf(ErrInvalid, "%s.files[%d].mode %#o: use permission bits, 0 to 07777", at, j, f.Mode)
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

// validateLife checks what says when a Machine is started, how it ends, and what is left then.
func (c *Config) validateLife() error {
	if c.Schedule != "" && !IsSchedule(c.Schedule) {
		return Errorf(ErrInvalid, "config.schedule %q: use hourly, daily, weekly or monthly", c.Schedule)
	}
	if len(c.Processes) > 0 && len(c.Containers) > 0 {
		return Errorf(ErrInvalid, "config.processes and config.containers: use one of them")
	}
	if m := c.Metrics; m != nil && (m.Port < 1 || m.Port > 65535) {
		return Errorf(ErrInvalid, "config.metrics.port %d: use 1 to 65535", m.Port)
	}
	if m := c.Metrics; m != nil && !strings.HasPrefix(m.Path, "/") {
		return Errorf(ErrInvalid, "config.metrics.path %q: begin it with /, such as /metrics", m.Path)
	}
	if _, err := c.Persistence(); err != nil {
		return err
	}
	return c.StopConfig.validate("config.stop_config")
}

// maxStopTimeout is Fly.io's.
const maxStopTimeout = 300 * time.Second

func (s *StopConfig) validate(at string) error {
	if s == nil || s.Timeout == nil || *s.Timeout >= 0 && time.Duration(*s.Timeout) <= maxStopTimeout {
		return nil
	}
	return Errorf(ErrInvalid, "%s.timeout %s: use 0s to %s", at, time.Duration(*s.Timeout), maxStopTimeout)
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
