// Package virtualkubelet runs the Pods of somebody else's cluster as Machines: a provider for programs that are built on
// github.com/virtual-kubelet/virtual-kubelet, whose controllers drive it. `gondola up` has clusters of its own and does not need it.
//
//	p, err := virtualkubelet.New(virtualkubelet.Config{Cluster: "theirs", Node: "gondola", Region: "fra", Address: addr, Kubernetes: rest, Platform: machines})
//	node, err := nodeutil.NewNode("gondola", p.Controllers, nodeutil.WithClient(clientset), nodeutil.AttachProviderRoutes(mux), …)
//	go p.Run(ctx)
//	<-p.Ready()
//	err = node.Run(ctx)
//
// The controllers watch the Pods of the node, keep the Node and its Lease, write statuses and serve the kubelet API. The provider makes and ends
// Machines, and has for the cluster's Kubernetes Services and NetworkPolicies what kube-proxy and a network plugin do on other nodes. Machines
// belong to Pods by UID, so everything may be stopped and started again at any time: what runs goes on and is found.
package virtualkubelet

import (
	"context"
	"log/slog"
	"net/netip"

	vknode "github.com/virtual-kubelet/virtual-kubelet/node"
	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	"k8s.io/client-go/rest"

	"gondola"
	"gondola/internal/kube/provider"
)

// Config says which cluster, which node and which platform.
type Config struct {
	Cluster string         // names the cluster on the platform: its Machines and Apps carry it. It must never change, nor be used for another cluster
	Node    string         // name of the Node
	Region  gondola.Region // where its Pods run
	Address netip.Addr     // of the Node, where the API server finds its kubelet API
	Port    int            // of the kubelet API; if zero, 10250

	// Kubernetes is the cluster's API. Who asks there must be able to do what a node does (Pods and their status, Nodes, Leases, Events, tokens of
	// service accounts, ConfigMaps and Secrets that Pods name) and to list Services, EndpointSlices, Namespaces, NetworkPolicies and volumes.
	Kubernetes *rest.Config
	Platform   gondola.Server // such as client.New returns

	Network string       // of the platform, in which the Pods are; if empty, the cluster's name
	Domain  string       // DNS domain of the cluster; if empty, "cluster.local"
	DNS     []netip.Addr // addresses of the cluster's DNS, IPv4 first; if empty, Pods get the host's resolvers
	Drivers []string     // that Pods may ask for by their RuntimeClass, the default first; if empty, gvisor
	Log     *slog.Logger // if nil, slog.Default
}

// Provider runs the Pods of one node. Make it with New.
type Provider struct {
	node     string
	provider *provider.Provider
}

// New returns a Provider that does nothing until Run. ErrInvalid names what is missing in cfg.
func New(cfg Config) (*Provider, error) {
	switch {
	case cfg.Platform == nil || cfg.Kubernetes == nil:
		return nil, gondola.Errorf(gondola.ErrInvalid, "virtual kubelet: Kubernetes and Platform must both be set")
	case cfg.Node == "" || !cfg.Address.IsValid():
		return nil, gondola.Errorf(gondola.ErrInvalid, "virtual kubelet: Node and Address must both be set")
	}
	p, err := provider.New(provider.Config{
		Cluster: cfg.Cluster, Domain: cfg.Domain, DNS: cfg.DNS, Network: cfg.Network, Admin: cfg.Kubernetes, KubeletPort: cfg.Port,
		Nodes:    []provider.Node{{Name: cfg.Node, Region: cfg.Region, Addresses: []netip.Addr{cfg.Address}, REST: cfg.Kubernetes}},
		Platform: cfg.Platform, Apps: cfg.Platform, Drivers: cfg.Drivers, Log: cfg.Log, Foreign: true,
	})
	if err != nil {
		return nil, err
	}
	return &Provider{node: cfg.Node, provider: p}, nil
}

// Controllers is a nodeutil.NewProviderFunc: it connects the node with the controllers and describes it to them. It is called once, before Run.
func (p *Provider) Controllers(cfg nodeutil.ProviderConfig) (nodeutil.Provider, vknode.NodeProvider, error) {
	l, err := p.provider.Library(p.node, cfg.Pods)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Node != nil {
		*cfg.Node = *l.Node()
	}
	return l, l, nil
}

// Run makes Machines of Pods until ctx ends; Machines run on when it returns.
func (p *Provider) Run(ctx context.Context) error { return p.provider.Run(ctx) }

// Ready closes when the Provider knows which Machines there are: the controllers may start.
func (p *Provider) Ready() <-chan struct{} { return p.provider.Ready() }
