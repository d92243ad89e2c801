package cli

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"gondola"
)

// configFlags are the flags that shape the config of a Machine, named as users of the official CLI know them.
type configFlags struct {
	file                                   string // a config in JSON, or the name of a file with one
	size, cpuKind                          string
	cpus                                   int
	memory                                 megabytes
	restart, schedule, driver, entrypoint  string
	env, metadata, ports, mounts, standbys []string
	localFiles, literalFiles, secretFiles  []string
	remove, skipDNS                        bool
	changed                                func(name string) bool
}

func (k *configFlags) register(f *pflag.FlagSet) {
	k.changed = f.Changed
	f.StringVarP(&k.file, "config", "c", "", "a machine config in JSON, or the name of a file with one")
	f.StringVar(&k.file, "machine-config", "", "the same")
	f.StringVar(&k.size, "vm-size", "", "size, such as shared-cpu-1x")
	f.StringVar(&k.size, "size", "", "the same")
	f.StringVar(&k.cpuKind, "vm-cpu-kind", "", "kind of CPU: shared or performance")
	f.IntVar(&k.cpus, "vm-cpus", 0, "number of CPUs")
	f.IntVar(&k.cpus, "cpus", 0, "the same")
	f.Var(&k.memory, "vm-memory", "memory in MB, or such as 1gb")
	f.Var(&k.memory, "memory", "the same")
	f.StringVar(&k.restart, "restart", "", "restart policy: no, always or on-failure")
	f.StringVar(&k.schedule, "schedule", "", "start it again and again: hourly, daily, weekly or monthly")
	f.StringVar(&k.driver, "driver", "", "isolation: gvisor or runc, if its operator allows it (default: the worker's)")
	f.StringVar(&k.entrypoint, "entrypoint", "", "program and arguments instead of the image's entrypoint")
	f.StringArrayVarP(&k.env, "env", "e", nil, "environment variable NAME=VALUE")
	f.StringArrayVarP(&k.ports, "port", "p", nil, "open a port of the host, PORT[:MACHINEPORT][/udp]; several times")
	f.StringArrayVarP(&k.mounts, "volume", "v", nil, "mount a Volume of the App: VOLUME:/path, by id or name; VOLUME:/path:ro read-only")
	f.StringArrayVarP(&k.metadata, "metadata", "m", nil, "metadata KEY=VALUE")
	f.StringArrayVar(&k.localFiles, "file-local", nil, "a file of this computer in the Machine: /PATH=FILE")
	f.StringArrayVar(&k.literalFiles, "file-literal", nil, "a file in the Machine: /PATH=CONTENTS")
	f.StringArrayVar(&k.secretFiles, "file-secret", nil, "a secret of the App as a file in the Machine: /PATH=SECRET")
	f.StringArrayVar(&k.standbys, "standby-for", nil, "Machines that this one stands by for")
	f.BoolVar(&k.remove, "rm", false, "destroy it when it has ended")
	f.BoolVar(&k.skipDNS, "skip-dns-registration", false, "do not make its name known")
	for name, r := range refusals {
		f.Var(&r, name, "")
		f.Lookup(name).NoOptDefVal = "true"
		f.Lookup(name).Hidden = true
	}
}

// apply lays what was given over a config.
func (k *configFlags) apply(c *gondola.Config) error {
	if k.file != "" {
		if err := readConfig(k.file, c); err != nil {
			return err
		}
	}
	if err := k.guest(c); err != nil {
		return err
	}
	if k.driver != "" {
		if c.Gondola == nil {
			c.Gondola = &gondola.ConfigExtension{}
		}
		c.Gondola.Driver = k.driver
	}
	if k.restart != "" {
		policy := gondola.RestartPolicy{Policy: k.restart}
		if policy.Policy == "on-fail" { // as the official CLI has it
			policy.Policy = gondola.RestartOnFailure
		}
		c.Restart = &policy
	}
	if k.changed("schedule") {
		c.Schedule = k.schedule
	}
	if k.changed("rm") {
		c.AutoDestroy = k.remove
	}
	if k.changed("skip-dns-registration") {
		if c.DNS == nil {
			c.DNS = &gondola.DNSConfig{}
		}
		c.DNS.SkipRegistration = k.skipDNS
	}
	if k.changed("entrypoint") {
		words, err := plainWords("--entrypoint", k.entrypoint)
		if err != nil {
			return err
		}
		c.Init.Entrypoint = words
	}
	if len(k.standbys) > 0 {
		c.Standbys = k.standbys
	}
	if err := errors.Join(pairs(k.env, "--env", &c.Env), pairs(k.metadata, "--metadata", &c.Metadata), volumeMounts(k.mounts, &c.Mounts), k.files(c)); err != nil {
		return err
	}
	for _, p := range k.ports {
		s, err := service(p)
		if err != nil {
			return err
		}
		c.Services = append(c.Services, s)
	}
	return nil
}

// readConfig reads a config that is JSON itself, or in a file.
func readConfig(arg string, c *gondola.Config) error {
	b, name := []byte(arg), "--config"
	if !strings.HasPrefix(strings.TrimSpace(arg), "{") {
		var err error
		if b, err = os.ReadFile(arg); err != nil {
			return err
		}
		name = arg
	}
	*c = gondola.Config{}
	if err := json.Unmarshal(b, c); err != nil {
		return fmt.Errorf("%s is not a machine config: %w", name, err)
	}
	return nil
}

// guest sets the size: that of a name, or what there is, with what was given beside it.
func (k *configFlags) guest(c *gondola.Config) error {
	if k.size == "" && k.cpus == 0 && k.memory == 0 && k.cpuKind == "" {
		return nil
	}
	var g gondola.Guest
	if c.Guest != nil {
		g = *c.Guest
	}
	if k.size != "" {
		var ok bool
		if g, ok = gondola.GuestPreset(k.size); !ok {
			return gondola.Errorf(gondola.ErrInvalid, "size %q is not known: use shared-cpu-1x … performance-16x", k.size)
		}
	}
	if k.cpus != 0 {
		g.CPUs = k.cpus
	}
	if k.memory != 0 {
		g.MemoryMB = int(k.memory)
	}
	g.CPUKind = cmp.Or(k.cpuKind, g.CPUKind)
	c.Guest = &g
	return nil
}

// files adds the files that were given.
func (k *configFlags) files(c *gondola.Config) error {
	for flag, args := range map[string][]string{"--file-local": k.localFiles, "--file-literal": k.literalFiles, "--file-secret": k.secretFiles} {
		for _, a := range args {
			to, from, ok := strings.Cut(a, "=")
			if !ok || !path.IsAbs(to) || from == "" {
				return UsageErrorf("%s %q: want /PATH=%s", flag, a, map[string]string{"--file-local": "FILE", "--file-literal": "CONTENTS", "--file-secret": "SECRET"}[flag])
			}
			f := gondola.File{GuestPath: to}
			switch flag {
			case "--file-secret":
				f.SecretName = from
			case "--file-literal":
				f.RawValue = base64.StdEncoding.EncodeToString([]byte(from))
			default:
				b, err := os.ReadFile(from)
				if err != nil {
					return fmt.Errorf("--file-local: %w", err)
				}
				f.RawValue = base64.StdEncoding.EncodeToString(b)
			}
			c.Files = append(c.Files, f)
		}
	}
	return nil
}

// megabytes reads "512", "512mb" and "1gb".
type megabytes int

func (m *megabytes) Set(s string) error {
	number, factor := strings.ToLower(s), 1
	if rest, ok := strings.CutSuffix(number, "gb"); ok {
		number, factor = rest, 1024
	}
	n, err := strconv.Atoi(strings.TrimSuffix(number, "mb"))
	if err != nil || n <= 0 {
		return errors.New("want megabytes such as 512, or 1gb")
	}
	*m = megabytes(n * factor)
	return nil
}

func (m *megabytes) String() string {
	if *m == 0 {
		return ""
	}
	return strconv.Itoa(int(*m))
}
func (m *megabytes) Type() string { return "MB" }

// refusal is a flag of the official CLI whose effect there is not here. Any value is refused by its reason, but for the one that asks for nothing.
type refusal struct{ reason, harmless string }

func (r *refusal) Set(s string) error {
	if s == r.harmless && s != "" {
		return nil
	}
	return errors.New(r.reason)
}
func (r *refusal) String() string { return "" }
func (r *refusal) Type() string   { return "" }

const (
	noBuilds = "images are not built here: build one, push it to a registry, and name it"
	noProxy  = "nothing starts and stops Machines by their traffic here"
	noGPUs   = "there are no GPUs here"
)

var refusals = map[string]refusal{
	"dockerfile": {reason: noBuilds}, "build-arg": {reason: noBuilds}, "build-target": {reason: noBuilds}, "build-local-only": {reason: noBuilds}, "build-remote-only": {reason: noBuilds},
	"build-depot": {reason: noBuilds}, "build-nixpacks": {reason: noBuilds}, "no-build-cache": {reason: noBuilds},
	"autostart": {noProxy, "false"}, "autostop": {noProxy, "off"},
	"vm-gpus": {noGPUs, "0"}, "vm-gpu-kind": {reason: noGPUs},
	"host-dedication-id": {reason: "no host is anybody's own here: name a region"},
	"kernel-arg":         {reason: "a Machine's kernel takes no arguments here"},
	"lsvd":               {reason: "Volumes are disks of their host here: use --volume"},
	"use-zstd":           {reason: noBuilds},
	"shell":              {reason: "use gondola machine console MACHINE when it runs"},
}

// plainWords splits a command line at its blanks. What has quotes needs a shell's rules, which a config in JSON does not.
func plainWords(flag, line string) ([]string, error) {
	if strings.ContainsAny(line, `"'\`) {
		return nil, UsageErrorf("%s %q: quotes are not read: use --config with init in JSON", flag, line)
	}
	return strings.Fields(line), nil
}

// pairs adds NAME=VALUE arguments to a map.
func pairs(args []string, flag string, to *map[string]string) error {
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return usageError{fmt.Errorf("%s %q: want NAME=VALUE", flag, a)}
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[k] = v
	}
	return nil
}

// service reads PORT[:MACHINEPORT][/PROTOCOL].
func service(arg string) (gondola.Service, error) {
	ports, protocol, given := strings.Cut(arg, "/")
	if protocol, handlers, proxied := strings.Cut(protocol, ":"); proxied {
		return gondola.Service{}, UsageErrorf("--port %q: handlers (%s) need the edge proxy, which is not here: use %s/%s", arg, handlers, ports, protocol)
	}
	outer, inner, two := strings.Cut(ports, ":")
	if !two {
		inner = outer
	}
	o, err := strconv.ParseUint(outer, 10, 16)
	i, err2 := strconv.ParseUint(inner, 10, 16)
	if err != nil || err2 != nil || o == 0 || i == 0 || given && protocol != "tcp" && protocol != "udp" {
		return gondola.Service{}, usageError{fmt.Errorf("--port %q: want PORT, PORT:MACHINEPORT or PORT:MACHINEPORT/udp, such as 80:8080", arg)}
	}
	return gondola.Service{Protocol: cmp.Or(protocol, "tcp"), InternalPort: int(i), Ports: []json.RawMessage{fmt.Appendf(nil, `{"port":%d}`, o)}}, nil
}
