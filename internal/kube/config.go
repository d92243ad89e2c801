// Package kube is the control plane of one Kubernetes cluster in this process: certificates, the datastore (kine on SQLite), API server,
// controllers, scheduler with the market inside, cluster DNS, and the Virtual Kubelet that runs Pods as Machines.
//
// A Cluster is a Task: New checks, Run starts everything in a sensible order and ends it in the reverse one, Ready closes when kubectl gets
// answers, every node is Ready and DNS serves. All state is in one directory; a Cluster started again on it goes on where it was. The
// package adds no addresses, routes or rules to the host: who calls it has put Address on lo before.
//
// Kubernetes keeps feature gates, logging and a configuration registry per process, so one Cluster runs at a time in a process.
package kube

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"gondola"
)

// Config says what a Cluster is.
type Config struct {
	Name         string         // of the cluster; a DNS label
	Dir          string         // where it keeps everything; made if missing, 0700
	Address      netip.Addr     // of this host, IPv4, not loopback: the API server binds and advertises it, DNS binds it
	AddressV6    netip.Addr     // of this host; DNS binds it too. If zero, DNS is on Address only.
	Names        []string       // further names and addresses under which others reach the API server
	Port         int            // of the API server; if zero, 6443
	DNSPort      int            // of the DNS server; if zero, 53
	ServiceCIDRs []netip.Prefix // of virtual addresses, IPv4 first, an IPv6 one makes the cluster dual-stack; if empty, 10.43.0.0/16
	Domain       string         // if empty, "cluster.local"
	Nodes        []NodeConfig
	Network      string   // network of its Machines; if empty, Name
	Upstream     []string // resolvers for names outside the cluster, address or address:port; if nil, those of /etc/resolv.conf

	// PodStarted hears how long each Pod took from being seen on its node until it was told to be Running. If nil, nobody does.
	PodStarted func(region gondola.Region, took time.Duration)

	// Renewed is called once a day after certificates were looked after: what Kubeconfig returns may be a newer one. If nil, nobody hears.
	Renewed func()

	Platform gondola.Platform // where Pods run. If nil, no node is served: a control plane alone.
	Apps     gondola.Apps
	Drivers  []string // that Machines may ask for, the default first; if empty, gvisor
	// FallbackDriver runs Pods without a RuntimeClass that ask for what the default driver cannot give. If empty, such Pods are refused.
	FallbackDriver string

	// Progress hears of each milestone of the start, with the time since Run began. If nil, nobody does.
	Progress func(step string, took time.Duration)
	Log      *slog.Logger // If nil, slog.Default.
}

// NodeConfig is one virtual node: a region of the platform.
type NodeConfig struct {
	Name      string
	Region    gondola.Region
	Addresses []netip.Addr // IPv4 first; the kubelet API listens on the first

	Gateway string                                     // as in provider.Node
	Listen  func(address string) (net.Listener, error) // as in provider.Node
}

// withDefaults returns c with its zero fields filled in, or an ErrInvalid that names what cannot be.
func (c Config) withDefaults() (Config, error) {
	if c.Port == 0 {
		c.Port = 6443
	}
	if c.DNSPort == 0 {
		c.DNSPort = 53
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	if len(c.Drivers) == 0 {
		c.Drivers = []string{"gvisor"}
	}
	if c.Network == "" {
		c.Network = c.Name
	}
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Progress == nil {
		c.Progress = func(string, time.Duration) {}
	}
	if err := c.check(); err != nil {
		return c, err
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return c, err
	}
	if c.Upstream == nil {
		c.Upstream = hostResolvers("/etc/resolv.conf", c.Address, c.AddressV6)
	}
	return c, nil
}

func (c *Config) check() error {
	invalid := func(format string, args ...any) error {
		return gondola.Errorf(gondola.ErrInvalid, "cluster %q: "+format, append([]any{c.Name}, args...)...)
	}
	if err := gondola.AppName(c.Name).Validate(); err != nil {
		return invalid("%w", err)
	}
	if c.Dir == "" {
		return invalid("it has no directory")
	}
	if !c.Address.Is4() || c.Address.IsLoopback() || c.Address.IsUnspecified() {
		return invalid("address %s cannot be the API server's: give an IPv4 address of this host that is not loopback, since Kubernetes accepts no other as an endpoint", c.Address)
	}
	for i, p := range c.ServiceCIDRs {
		if p != p.Masked() || i > 1 || p.Addr().Is4() != (i == 0) {
			return invalid("service ranges %v: give one IPv4 range and at most one IPv6 range after it", c.ServiceCIDRs)
		}
	}
	seen := map[string]bool{}
	for _, n := range c.Nodes {
		if n.Name == "" || seen[n.Name] || len(n.Addresses) == 0 {
			return invalid("node %q needs a name of its own and an address", n.Name)
		}
		seen[n.Name] = true
	}
	return nil
}

// path returns a path in the cluster's directory.
func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// dnsAddresses returns the fixed virtual addresses of the DNS Service: the tenth of each range, as kubeadm has it.
func (c *Config) dnsAddresses() []netip.Addr {
	var out []netip.Addr
	for _, p := range c.ServiceCIDRs {
		a := p.Addr()
		for range 10 {
			a = a.Next()
		}
		out = append(out, a)
	}
	return out
}
