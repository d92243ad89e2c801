// Package provider is the Virtual Kubelet of a cluster: it shows each region of the platform as a Node and runs each Pod bound to one as a
// Machine there.
//
// It owns the Nodes and their Leases, the life of every Pod on them (Machine, payload, status, Events, deletion), the virtual addresses of
// the cluster's Kubernetes Services and the kubelet's HTTP API. It speaks to the platform only through gondola's contracts and to
// Kubernetes only through its API, as system:node:<name> for everything that concerns a node.
//
// Everything is level-triggered and keyed by the Pod's UID: a Machine belongs to exactly one UID for ever, by its name and its metadata, so
// whatever is missed, repeated or interrupted converges at the next look.
package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/client-go/rest"

	"gondola"
)

// Config says what a Provider drives.
type Config struct {
	Cluster string       // name of the cluster; a Machine of it carries it in its metadata
	Domain  string       // DNS domain of the cluster; if empty, "cluster.local"
	DNS     []netip.Addr // addresses of the cluster's DNS Service, IPv4 first; if empty, Pods get the host's resolvers
	Network string       // network of the cluster's Machines; if empty, the cluster's name
	Nodes   []Node       // at least one

	ClientCA    *x509.CertPool // issuer of the API server's client certificate, for the kubelet API
	Admin       *rest.Config   // for what is not a node's: Services, EndpointSlices, Namespaces
	KubeletPort int            // port of the kubelet API on every Node's first address; if zero, 10250

	Platform gondola.Platform
	Apps     gondola.Apps
	Log      *slog.Logger // If nil, slog.Default.

	Refused time.Duration // how long a bound Pod may wait for room before it fails; if zero, 60 s
}

// Node is one virtual node.
type Node struct {
	Name      string
	Region    gondola.Region
	Addresses []netip.Addr    // InternalIPs, IPv4 first; the kubelet API listens on the first; a Pod's hostIPs where its Machine tells none
	REST      *rest.Config    // as system:node:<Name> in system:nodes
	Serving   tls.Certificate // of the kubelet API
}

// Provider runs the nodes and Pods of one cluster. Make it with New.
type Provider struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{}
}

// New returns a Provider that does nothing until Run. ErrInvalid names what is missing in cfg.
func New(cfg Config) (*Provider, error) {
	switch {
	case cfg.Cluster == "":
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: the cluster has no name")
	case len(cfg.Nodes) == 0:
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: cluster %s has no node", cfg.Cluster)
	case cfg.Platform == nil || cfg.Apps == nil || cfg.Admin == nil:
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: cluster %s lacks Platform, Apps or Admin", cfg.Cluster)
	}
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if cfg.Network == "" {
		cfg.Network = cfg.Cluster
	}
	if cfg.KubeletPort == 0 {
		cfg.KubeletPort = 10250
	}
	if cfg.Refused == 0 {
		cfg.Refused = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Provider{cfg: cfg, log: cfg.Log.With("cluster", cfg.Cluster), ready: make(chan struct{})}, nil
}

// Run drives the cluster until ctx ends. Machines run on when it returns.
func (p *Provider) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready closes when every Node is registered and the first lists of Pods and Machines are in.
func (p *Provider) Ready() <-chan struct{} { return p.ready }

func (p *Provider) String() string { return "provider of cluster " + p.cfg.Cluster }
