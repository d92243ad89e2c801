package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"

	"sigs.k8s.io/yaml"

	"gondola"
)

// DefaultData is where everything is kept unless --data, GONDOLA_DATA or the config file says otherwise.
const DefaultData = "/var/lib/gondola"

// DefaultConfigFile is read when it is there.
const DefaultConfigFile = "/etc/gondola/config.yaml"

// Config is the config file of the platform, /etc/gondola/config.yaml. Every field may be missing.
type Config struct {
	Data           string              `json:"data,omitempty"`           // If empty, DefaultData.
	API            string              `json:"api,omitempty"`            // address of the Machines API; if empty, 127.0.0.1:4280
	Regions        []gondola.Region    `json:"regions,omitempty"`        // one worker each, sharing this host evenly; if empty, those of the last time, else "local"
	Cluster        string              `json:"cluster,omitempty"`        // name of the Kubernetes cluster; if empty, "main"
	NodesPerRegion int                 `json:"nodesPerRegion,omitempty"` // virtual nodes per region; if zero, 1
	KubernetesPort int                 `json:"kubernetesPort,omitempty"` // If zero, 6443.
	Range          string              `json:"range,omitempty"`          // IPv4 range of Machines, a /10; if empty, 10.64.0.0/10
	Registries     map[string]Registry `json:"registries,omitempty"`     // host → how to speak to it
}

// Registry is how to speak to an image registry.
type Registry struct {
	Mirror    string `json:"mirror,omitempty"`    // host[/path] to pull from instead
	PlainHTTP bool   `json:"plainHTTP,omitempty"` // http when https does not answer
	Insecure  bool   `json:"insecure,omitempty"`  // take any certificate
}

// LoadConfig reads a config file strictly: an unknown key is an error that names it. With optional, a missing file is the empty Config.
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
		return c, fmt.Errorf("config file %s: %w", path, err)
	}
	return c, nil
}

var (
	regionRE  = regexp.MustCompile(`^[a-z]([a-z0-9]{0,9})$`)
	clusterRE = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$`)
)

// complete fills in the defaults and checks every field.
func (c *Config) complete() error {
	if c.Data == "" {
		c.Data = DefaultData
	}
	if c.API == "" {
		c.API = "127.0.0.1:4280"
	}
	if c.Cluster == "" {
		c.Cluster = "main"
	}
	c.NodesPerRegion = max(c.NodesPerRegion, 1)
	if c.KubernetesPort == 0 {
		c.KubernetesPort = 6443
	}
	if c.Range == "" {
		c.Range = "10.64.0.0/10"
	}
	host, _, err := net.SplitHostPort(c.API)
	if err != nil {
		return gondola.Errorf(gondola.ErrInvalid, "api %q: want an address such as 127.0.0.1:4280", c.API)
	}
	if a, err := netip.ParseAddr(host); err != nil || !a.IsLoopback() {
		return gondola.Errorf(gondola.ErrInvalid, "api %q: only a loopback address such as 127.0.0.1:4280 is served so far", c.API)
	}
	if p, err := netip.ParsePrefix(c.Range); err != nil || p.Bits() != 10 || !p.Addr().Is4() || p.Masked() != p {
		return gondola.Errorf(gondola.ErrInvalid, "range %q: want an IPv4 range of /10, such as 10.64.0.0/10", c.Range)
	}
	if !clusterRE.MatchString(c.Cluster) {
		return gondola.Errorf(gondola.ErrInvalid, "cluster %q: use at most 20 lower-case letters, digits and inner dashes", c.Cluster)
	}
	for i, r := range c.Regions {
		if !regionRE.MatchString(string(r)) {
			return gondola.Errorf(gondola.ErrInvalid, "region %q: use a code of at most 10 lower-case letters and digits, such as fra", r)
		}
		if slices.Contains(c.Regions[:i], r) {
			return gondola.Errorf(gondola.ErrInvalid, "region %q is named twice", r)
		}
	}
	return nil
}
