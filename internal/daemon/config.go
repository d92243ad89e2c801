package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"gondola"
	"gondola/internal/image"
)

// DefaultData is where everything is kept unless --data, GONDOLA_DATA or the config file says otherwise.
const DefaultData = "/var/lib/gondola"

// DefaultConfigFile is read when it is there.
const DefaultConfigFile = "/etc/gondola/config.yaml"

// Config is the config file of the platform, /etc/gondola/config.yaml. Every field may be missing.
type Config struct {
	Data           string           `json:"data,omitempty"`           // If empty, DefaultData.
	API            string           `json:"api,omitempty"`            // address of the Machines API; if empty, 127.0.0.1:4280
	Listen         []string         `json:"listen,omitempty"`         // addresses of this host on which other machines reach both APIs, by TLS and token; if empty, none
	TLSNames       []string         `json:"tlsNames,omitempty"`       // further names of this host in the certificates of these
	Traces         string           `json:"traces,omitempty"`         // host:port of a collector of OpenTelemetry traces (OTLP over gRPC); if empty, none are made
	Regions        []gondola.Region `json:"regions,omitempty"`        // one worker each, sharing this host evenly; if empty, those of the last time, else "local"
	Cluster        string           `json:"cluster,omitempty"`        // name of the Kubernetes cluster; if empty, "main"
	NodesPerRegion int              `json:"nodesPerRegion,omitempty"` // virtual nodes per region; if zero, 1
	KubernetesPort int              `json:"kubernetesPort,omitempty"` // If zero, 6443.
	Range          string           `json:"range,omitempty"`          // IPv4 range of Machines, a /10; if empty, 10.64.0.0/10
	// LoadBalancerPools are ranges of addresses for Services of type LoadBalancer; this host answers for those in use. If empty, such Services
	// share the host's own addresses.
	LoadBalancerPools []string            `json:"loadBalancerPools,omitempty"`
	Registries        map[string]Registry `json:"registries,omitempty"` // host → how to speak to it
	Limits            Limits              `json:"limits,omitzero"`      // what every Machine may have at most
	Reserve           Reserve             `json:"reserve,omitzero"`     // what Machines may not have
	RateLimits        RateLimits          `json:"rateLimits,omitzero"`  // how often the Machines API may be asked for the same
	Warm              int                 `json:"warm,omitempty"`       // gVisor sandboxes that stand ready for Machines to come (docs/operating.md); if zero, none
	// Drivers are what may isolate new Machines, gvisor and runc; the first is the default. If empty, gvisor alone.
	Drivers []string `json:"drivers,omitempty"`
	// FallbackDriver runs Pods that name no driver and ask for what the default cannot give. It is one of Drivers. If empty, such Pods are refused.
	FallbackDriver string `json:"fallbackDriver,omitempty"`
}

// Limits is what a Machine may have at most of what it does not ask for by itself (docs/limits.md).
type Limits struct {
	Processes int64 `json:"processes,omitempty"` // and threads; if zero, 4096, or a sixteenth of what the kernel can number. -1: no limit
	LogMB     int64 `json:"logMB,omitempty"`     // size of a container's log file; if zero, 10
}

// Reserve is what the host keeps for itself.
type Reserve struct {
	CPUMillis int64 `json:"cpuMillis,omitempty"` // thousandths of a core that are not given to Machines
	MemoryMB  int64 `json:"memoryMB,omitempty"`  // if zero, 512 or 5 % of the memory, whichever is more
}

func (r Reserve) resources() gondola.Resources {
	return gondola.Resources{CPUMillis: r.CPUMillis, MemoryBytes: r.MemoryMB << 20}
}

// Registry is how to speak to an image registry.
type Registry struct {
	Mirror    string `json:"mirror,omitempty"`    // host[/path] or URL to ask first; a host of one word with its port
	PlainHTTP bool   `json:"plainHTTP,omitempty"` // http when https does not answer
	Insecure  bool   `json:"insecure,omitempty"`  // take any certificate
}

// LoadConfig reads a config file strictly: an unknown key and a value that makes no sense are errors that name the key and the file. With
// optional, a missing file is the empty Config.
func LoadConfig(path string, optional bool) (Config, error) {
	var c Config
	b, err := os.ReadFile(path)
	if optional && errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("config file: %w", err)
	}
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return Config{}, gondola.Errorf(gondola.ErrInvalid, "config file %s: %s", path, plainly(err))
	}
	if _, err := c.complete(); err != nil {
		return Config{}, gondola.Errorf(gondola.ErrInvalid, "config file %s: %v", path, err)
	}
	return c, nil
}

// plainly takes what only the authors of decoders want to read out of an error.
func plainly(err error) string {
	s := err.Error()
	for _, noise := range []string{"error unmarshaling JSON: ", "while decoding JSON: ", "error converting YAML to JSON: ", "json: ", "yaml: ", "Go struct field Config.", "Go struct field Registry."} {
		s = strings.ReplaceAll(s, noise, "")
	}
	s = strings.ReplaceAll(s, "unknown field", "there is no key")
	return strings.ReplaceAll(s, "cannot unmarshal", "cannot take a")
}

var (
	regionRE   = regexp.MustCompile(`^[a-z]([a-z0-9]{0,9})$`)
	clusterRE  = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$`)
	dnsNameRE  = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	registryRE = regexp.MustCompile(`^[a-zA-Z0-9.-]+(:[0-9]+)?$`)
)

// maxRegions keeps worker numbers and the shares of a host sensible.
const maxRegions = 32

// maxWarm keeps the memory of what nobody has asked for small.
const maxWarm = 16

// Complete returns the configuration with its defaults filled in, or what is wrong with it.
func Complete(c Config) (Config, error) { return c.complete() }

// complete returns the configuration with its defaults filled in, every field checked.
func (c Config) complete() (Config, error) {
	if c.Data == "" {
		c.Data = DefaultData
	}
	data, err := filepath.Abs(c.Data) // other processes get it, with directories of their own
	if err != nil {
		return c, fmt.Errorf("data %q: %w", c.Data, err)
	}
	c.Data = data
	if c.API == "" {
		c.API = "127.0.0.1:4280"
	}
	if c.Cluster == "" {
		c.Cluster = "main"
	}
	if c.NodesPerRegion == 0 {
		c.NodesPerRegion = 1
	}
	if c.KubernetesPort == 0 {
		c.KubernetesPort = 6443
	}
	if c.Range == "" {
		c.Range = "10.64.0.0/10"
	}
	if len(c.Drivers) == 0 {
		c.Drivers = []string{"gvisor"}
	}
	return c, c.check()
}

// Allow adds a driver to those that may be asked for, and leaves the default what it is.
func (c *Config) Allow(driver string) {
	if len(c.Drivers) == 0 {
		c.Drivers = []string{"gvisor"}
	}
	if !slices.Contains(c.Drivers, driver) {
		c.Drivers = append(c.Drivers, driver)
	}
}

func (c *Config) check() error {
	invalid := func(format string, args ...any) error { return gondola.Errorf(gondola.ErrInvalid, format, args...) }
	if err := c.checkAPI(); err != nil {
		return err
	}
	if err := c.checkListen(); err != nil {
		return err
	}
	if p, err := netip.ParsePrefix(c.Range); err != nil || p.Bits() != 10 || !p.Addr().Is4() || p.Masked() != p {
		return invalid("range %q: want an IPv4 range of /10, such as 10.64.0.0/10", c.Range)
	}
	if !clusterRE.MatchString(c.Cluster) {
		return invalid("cluster %q: use at most 20 lower-case letters, digits and inner dashes", c.Cluster)
	}
	if c.NodesPerRegion < 1 || c.NodesPerRegion > 100 {
		return invalid("nodesPerRegion %d: want 1 to 100", c.NodesPerRegion)
	}
	if c.KubernetesPort < 1 || c.KubernetesPort > 65535 {
		return invalid("kubernetesPort %d: want 1 to 65535", c.KubernetesPort)
	}
	if len(c.Regions) > maxRegions {
		return invalid("regions: %d are too many for one host, want at most %d", len(c.Regions), maxRegions)
	}
	for i, r := range c.Regions {
		if !regionRE.MatchString(string(r)) {
			return invalid("regions: %q: use a code of at most 10 lower-case letters and digits, such as fra", r)
		}
		if slices.Contains(c.Regions[:i], r) {
			return invalid("regions: %q is named twice", r)
		}
	}
	if _, err := c.pools(); err != nil {
		return err
	}
	for i, d := range c.Drivers {
		if d != "gvisor" && d != "runc" {
			return invalid("drivers: %q is not known: use gvisor or runc", d)
		}
		if slices.Contains(c.Drivers[:i], d) {
			return invalid("drivers: %q is named twice", d)
		}
	}
	if f := c.FallbackDriver; f != "" && !slices.Contains(c.Drivers, f) {
		return invalid("fallbackDriver: %q is not among the drivers: %s", f, strings.Join(c.Drivers, ", "))
	}
	if n := c.Limits.Processes; n != 0 && n != -1 && n < 64 {
		return invalid("limits: processes %d: want at least 64, or -1 for no limit", n)
	}
	if n := c.Limits.LogMB; n < 0 || n > 10<<10 {
		return invalid("limits: logMB %d: want 1 to 10240", n)
	}
	if c.Warm < 0 || c.Warm > maxWarm {
		return invalid("warm %d: want 1 to %d, or 0 for none", c.Warm, maxWarm)
	}
	if c.Reserve.CPUMillis < 0 || c.Reserve.MemoryMB < 0 {
		return invalid("reserve: want amounts that are not negative")
	}
	if err := c.RateLimits.check(); err != nil {
		return err
	}
	for name, r := range c.Registries {
		if !registryRE.MatchString(name) {
			return invalid("registries: %q: want a host, such as registry.example.com:5000", name)
		}
		if r.Mirror == "" {
			continue
		}
		if err := image.CheckMirror(r.Mirror); err != nil {
			return invalid("registries: %s: %w", name, err)
		}
	}
	return nil
}

// pools are the LoadBalancerPools as prefixes; a bare address is a pool of one.
func (c *Config) pools() (out []netip.Prefix, err error) {
	machines, err := netip.ParsePrefix(c.Range)
	if err != nil {
		return nil, err
	}
	for _, s := range c.LoadBalancerPools {
		p, err := netip.ParsePrefix(s)
		if a, err2 := netip.ParseAddr(s); err2 == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil || p.Masked() != p || p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Bits() < 8:
			return nil, gondola.Errorf(gondola.ErrInvalid, "loadBalancerPools: %q: want a range such as 192.0.2.0/28 or one address", s)
		case p.Overlaps(machines):
			return nil, gondola.Errorf(gondola.ErrInvalid, "loadBalancerPools: %s overlaps the range of Machines %s; use another one", p, machines)
		}
		for _, q := range out {
			if q.Overlaps(p) {
				return nil, gondola.Errorf(gondola.ErrInvalid, "loadBalancerPools: %s overlaps %s", p, q)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func (c *Config) checkAPI() error {
	host, port, err := net.SplitHostPort(c.API)
	if err != nil {
		return gondola.Errorf(gondola.ErrInvalid, "api %q: want an address such as 127.0.0.1:4280", c.API)
	}
	if a, err := netip.ParseAddr(host); err != nil || !a.IsLoopback() {
		return gondola.Errorf(gondola.ErrInvalid, "api %q: want a loopback address such as 127.0.0.1:4280, where the token of the data directory opens it; other machines are served by TLS, on the addresses of `listen`", c.API)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return gondola.Errorf(gondola.ErrInvalid, "api %q: want a port of 1 to 65535, as in 127.0.0.1:4280", c.API)
	}
	return nil
}

func (c *Config) checkListen() error {
	for i, l := range c.Listen {
		a, err := netip.ParseAddr(l)
		switch {
		case err != nil:
			return gondola.Errorf(gondola.ErrInvalid, "listen %q: want an IP address of this host, without a port; names go to tlsNames", l)
		case a.IsUnspecified():
			return gondola.Errorf(gondola.ErrInvalid, "listen %s would open the APIs on every network: name the addresses of this host that others may use", l)
		case a.IsLoopback():
			return gondola.Errorf(gondola.ErrInvalid, "listen %s: loopback is served anyway; name an address that other machines reach", l)
		case slices.Contains(c.Listen[:i], l):
			return gondola.Errorf(gondola.ErrInvalid, "listen: %s is named twice", l)
		}
	}
	if c.Traces != "" {
		if _, _, err := net.SplitHostPort(c.Traces); err != nil {
			return gondola.Errorf(gondola.ErrInvalid, "traces %q: want the host and port of a collector, such as 127.0.0.1:4317", c.Traces)
		}
	}
	for _, n := range c.TLSNames {
		if !dnsNameRE.MatchString(n) {
			return gondola.Errorf(gondola.ErrInvalid, "tlsNames: %q: want a DNS name such as gondola.example.com", n)
		}
	}
	return nil
}
