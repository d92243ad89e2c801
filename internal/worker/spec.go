package worker

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gondola"
	"gondola/internal/pilot"
)

// specInput is all that a pilot.Spec is made of.
type specInput struct {
	machine  gondola.MachineID
	app      gondola.AppName
	version  gondola.Version
	region   gondola.Region
	instance string
	config   *gondola.Config
	images   images
	volumes  map[gondola.VolumeID]string // → directory on the host
	prepared Prepared
	hostIPs  []netip.Addr
	dns      gondola.DNSConfig // for what the Config leaves open

	capacity            gondola.Resources // of the worker
	processes, logBytes int64
}

func (w *Worker) buildSpec(r record, pulled images, p Prepared, volumes map[gondola.VolumeID]string) (pilot.Spec, error) {
	return buildSpec(specInput{machine: r.ID, app: r.App, version: r.Version, region: w.cfg.Region, instance: w.cfg.Instance, config: r.Config,
		images: pulled, volumes: volumes, prepared: p, hostIPs: w.cfg.Host.IPs(), dns: w.cfg.DNS,
		capacity: w.cfg.Capacity, processes: w.cfg.Processes, logBytes: w.cfg.LogBytes})
}

// isPod says whether a Config is a Pod's: it gets a kubelet's files, and none of Fly.io's variables.
func isPod(c *gondola.Config) bool {
	return c.Gondola != nil && c.Gondola.RestartBackoff == "kubernetes"
}

// buildSpec merges Config and images into what a pilot runs. Pure. It fails with ErrImage for a container that has nothing to run.
func buildSpec(in specInput) (pilot.Spec, error) {
	c, p := in.config, in.prepared
	requests, limits := c.Requests()
	s := pilot.Spec{Machine: in.machine, App: in.app, Version: in.version, Instance: in.instance, Dir: p.Dir, RunDir: p.RunDir, Socket: p.Socket,
		NetNS: p.NetNS, Cgroup: p.Cgroup, Addresses: p.Addresses, HostIPs: in.hostIPs, Limits: limits, Hostname: hostname(in),
		Requests: requests, Processes: in.processes, LogBytes: in.logBytes, OOMScore: oomScore(requests, limits, in.capacity.MemoryBytes)}
	if c.Gondola != nil {
		s.ShareProc, s.RestartBackoff = c.Gondola.ShareProc, c.Gondola.RestartBackoff
		s.Label, s.FSGroup = c.Gondola.Label, c.Gondola.FSGroup
	}
	if c.HostNetwork() {
		s.HostNetwork, s.HostIPs = true, p.Addresses
	}
	persistence, _ := c.Persistence() // validate has seen it
	s.KeepRootfs = persistence != gondola.PersistNever
	if !isPod(c) {
		s.API = p.API
	}
	s.Checks = c.AllChecks()
	s.Hosts, s.Resolv = hostsFile(in, s.Hostname), resolvConf(c.DNS, in.dns)
	for _, v := range c.Volumes {
		out := pilot.Volume{Name: v.Name, Kind: pilot.VolumePayload}
		if t := v.TempDir; t != nil {
			out.Kind, out.SizeMB = pilot.VolumeDisk, t.SizeMB
			if t.StorageType == "memory" {
				out.Kind = pilot.VolumeMemory
			}
		}
		if v.OnGateway() {
			out.Kind, out.Source = pilot.VolumeHost, p.Paths[v.Name]
		}
		if v.Image != "" {
			out.Kind, out.Source = pilot.VolumeImage, in.images[imageKey{v.Image, v.PullPolicy()}].Tree
		}
		s.Volumes = append(s.Volumes, out)
	}
	for _, m := range c.Mounts {
		id, _ := m.Wanted()
		s.Volumes = append(s.Volumes, pilot.Volume{Name: m.Label(), Kind: pilot.VolumeHost, Source: in.volumes[id]})
	}
	for _, k := range c.Lasting() {
		merged, err := mergeContainer(in, withVolumes(c, k), s.Hostname)
		if err != nil {
			return pilot.Spec{}, err
		}
		s.Containers = append(s.Containers, merged)
	}
	return s, nil
}

// oomScore says how early a Machine is ended when memory is used up, as a kubelet ranks Pods: first those that asked for none, last those that
// cannot take more than they asked for, and between them the less was asked for, the earlier. A Machine may not be put before the system.
func oomScore(requests, limits gondola.Resources, all int64) int {
	switch {
	case limits.MemoryBytes > 0 && limits.MemoryBytes <= requests.MemoryBytes:
		return 1
	case requests == gondola.Overhead || requests.MemoryBytes == 0 || all == 0:
		return 1000
	}
	return int(min(max(1000-1000*requests.MemoryBytes/all, 2), 999))
}

// withVolumes adds what Config.Mounts says to the mounts of a container: those with a path are in every one, a read-only one is so wherever it is.
func withVolumes(c *gondola.Config, k gondola.Container) gondola.Container {
	if len(c.Mounts) == 0 {
		return k
	}
	k.Mounts = slices.Clone(k.Mounts)
	for _, m := range c.Mounts {
		if m.Path != "" {
			k.Mounts = append(k.Mounts, gondola.ContainerMount{Name: m.Label(), Path: m.Path})
		}
		if m.Gondola == nil || !m.Gondola.ReadOnly {
			continue
		}
		for i := range k.Mounts {
			if k.Mounts[i].Name != m.Label() {
				continue
			}
			var x gondola.MountExtension
			if k.Mounts[i].Gondola != nil {
				x = *k.Mounts[i].Gondola
			}
			x.ReadOnly = true
			k.Mounts[i].Gondola = &x
		}
	}
	return k
}

// mergeContainer lays a container's Config over its image, as the OCI image specification and Docker have it: exec replaces everything,
// an entrypoint replaces the image's and its cmd, a cmd only the cmd; variables of the Config win.
func mergeContainer(in specInput, k gondola.Container, hostname string) (pilot.Container, error) {
	img := in.images[keyOf(k, k.Image)]
	out := pilot.Container{Name: k.Name, Image: k.Image, ImageID: img.ID, Tree: img.Tree, User: img.User, WorkingDir: img.WorkingDir, Config: k}
	switch {
	case len(k.Exec) > 0:
		out.Args = slices.Clone(k.Exec)
	case len(k.Entrypoint) > 0:
		out.Args = slices.Concat(k.Entrypoint, k.Cmd)
	case len(k.Cmd) > 0:
		out.Args = slices.Concat(img.Entrypoint, k.Cmd)
	default:
		out.Args = slices.Concat(img.Entrypoint, img.Cmd)
	}
	if len(out.Args) == 0 {
		return out, gondola.Errorf(gondola.ErrImage, "container %s: image %s has neither entrypoint nor cmd: say what to run with init.exec or cmd", k.Name, k.Image)
	}
	if k.User != "" {
		out.User = k.User
	}
	if k.Gondola != nil && k.Gondola.WorkingDir != "" {
		out.WorkingDir = k.Gondola.WorkingDir
	}
	if out.WorkingDir == "" {
		out.WorkingDir = "/"
	}
	out.Env = mergeEnv(in, k, img, hostname)
	out.Config.Files = configFiles(in, k)
	_, out.AppSecrets = in.config.WantedSecrets()
	stop := gondola.StopConfig{}
	if k.Stop != nil {
		stop = *k.Stop
	}
	if stop.Signal == nil {
		if sig, err := gondola.ParseSignal(img.StopSignal); err == nil && sig != "" {
			stop.Signal = &sig
		} else if len(in.config.Containers) == 0 {
			sig := gondola.Signal("SIGINT") // a plain Machine's
			stop.Signal = &sig
		}
	}
	if stop.Signal != nil || stop.Timeout != nil {
		out.Config.Stop = &stop
	}
	return out, nil
}

// configFiles returns a container's files, those that are the config of an image with its contents.
func configFiles(in specInput, k gondola.Container) []gondola.File {
	files := slices.Clone(k.Files)
	for i, f := range files {
		if f.ImageConfig != "" {
			files[i].RawValue = base64.StdEncoding.EncodeToString(in.images[keyOf(k, f.ImageConfig)].Config)
		}
	}
	return files
}

// mergeEnv returns NAME=value, in the order: what every container has, the image's, the platform's, the Machine's, the container's; a later
// one of the same name wins and takes the place of the earlier.
func mergeEnv(in specInput, k gondola.Container, img Image, hostname string) []string {
	var env []string
	at := map[string]int{}
	set := func(name, value string) {
		if i, ok := at[name]; ok {
			env[i] = name + "=" + value
			return
		}
		at[name] = len(env)
		env = append(env, name+"="+value)
	}
	setAll := func(vars map[string]string) {
		for _, name := range slices.Sorted(maps.Keys(vars)) {
			set(name, vars[name])
		}
	}
	set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	set("HOSTNAME", hostname)
	if k.Gondola != nil && k.Gondola.TTY {
		set("TERM", "xterm")
	}
	for _, kv := range img.Env {
		name, value, _ := strings.Cut(kv, "=")
		set(name, value)
	}
	if !isPod(in.config) {
		setAll(flyEnv(in, k))
	}
	setAll(in.config.Env)
	setAll(k.Env)
	for _, from := range k.EnvFrom {
		set(from.EnvVar, field(in, k, from.FieldRef))
	}
	return env
}

// flyEnv are the variables that Fly.io gives every Machine (https://fly.io/docs/machines/runtime-environment/).
func flyEnv(in specInput, k gondola.Container) map[string]string {
	_, limits := in.config.Requests()
	env := map[string]string{"FLY_APP_NAME": string(in.app), "FLY_MACHINE_ID": string(in.machine), "FLY_ALLOC_ID": string(in.machine),
		"FLY_REGION": string(in.region), "FLY_IMAGE_REF": k.Image, "FLY_MACHINE_VERSION": string(in.version),
		"FLY_VM_MEMORY_MB": strconv.FormatInt(limits.MemoryBytes>>20, 10)}
	if ip := privateIP(in.prepared.Addresses); ip != "" {
		env["FLY_PRIVATE_IP"] = ip
	}
	if group := in.config.Metadata["fly_process_group"]; group != "" {
		env["FLY_PROCESS_GROUP"] = group
	}
	return env
}

// field is a fact about the Machine that env_from asks for.
func field(in specInput, k gondola.Container, ref string) string {
	switch ref {
	case "id":
		return string(in.machine)
	case "version":
		return string(in.version)
	case "app_name":
		return string(in.app)
	case "private_ip":
		return privateIP(in.prepared.Addresses)
	case "region":
		return string(in.region)
	case "image":
		return k.Image
	default:
		return "" // validate has refused it
	}
}

func privateIP(addresses []netip.Addr) string {
	if i := slices.IndexFunc(addresses, netip.Addr.Is6); i >= 0 {
		return addresses[i].String()
	}
	return ""
}

func hostname(in specInput) string {
	if in.config.DNS != nil && in.config.DNS.Hostname != "" {
		return in.config.DNS.Hostname
	}
	return string(in.machine)
}

// hostsFile is /etc/hosts; a Pod's is what a kubelet writes (pkg/kubelet/kubelet_pods.go).
func hostsFile(in specInput, host string) string {
	var b strings.Builder
	if in.config.HostNetwork() {
		if isPod(in.config) {
			b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		}
		b.WriteString(in.prepared.Hosts)
		hostAliases(&b, in.config)
		return b.String()
	}
	if isPod(in.config) {
		b.WriteString("# Kubernetes-managed hosts file.\n")
	}
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	names := host
	if in.config.DNS != nil && in.config.DNS.HostnameFQDN != "" && in.config.DNS.HostnameFQDN != host {
		names = in.config.DNS.HostnameFQDN + "\t" + host
	}
	for _, a := range in.prepared.Addresses {
		fmt.Fprintf(&b, "%s\t%s\n", a, names)
		if a.Is6() && !isPod(in.config) {
			fmt.Fprintf(&b, "%s\tfly-local-6pn\n", a)
		}
	}
	hostAliases(&b, in.config)
	return b.String()
}

// resolvConf is /etc/resolv.conf: a Machine that names no servers gets the worker's answers for all that it leaves open.
func resolvConf(d *gondola.DNSConfig, defaults gondola.DNSConfig) string {
	if d == nil {
		d = &defaults
	} else if len(d.Nameservers) == 0 {
		filled := *d
		filled.Nameservers = defaults.Nameservers
		if len(d.Searches) == 0 {
			filled.Searches = defaults.Searches
		}
		if len(d.Options) == 0 {
			filled.Options = defaults.Options
		}
		d = &filled
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Options) > 0 {
		b.WriteString("options")
		for _, o := range d.Options {
			b.WriteString(" " + o.Name)
			if o.Value != "" {
				b.WriteString(":" + o.Value)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
