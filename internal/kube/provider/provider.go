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
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/kubelet/token"

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
	Drivers  []string // that Machines may ask for, the default first; if empty, gvisor
	// FallbackDriver runs Pods without a RuntimeClass that ask for what the default driver cannot give. If empty, such Pods are refused.
	FallbackDriver string
	Log            *slog.Logger // If nil, slog.Default.

	// PodStarted hears how long it took from the moment a Pod was seen on its node until it was told to be Running; only of Pods whose
	// Machine was made here. If nil, nobody does.
	PodStarted func(region gondola.Region, took time.Duration)

	// Foreign leaves to virtual-kubelet's own controllers what they do: they watch the Pods, keep the Nodes and write statuses, and serve the kubelet
	// API where they are told to. Library connects each node with them.
	Foreign bool

	Refused time.Duration // how long a bound Pod may wait for room before it fails; if zero, 60 s
}

// Node is one virtual node.
type Node struct {
	Name      string
	Region    gondola.Region
	Addresses []netip.Addr                                         // InternalIPs, IPv4 first; the kubelet API listens on the first; a Pod's hostIPs where its Machine tells none, or with a Gateway
	REST      *rest.Config                                         // as system:node:<Name> in system:nodes
	Serving   func(*tls.ClientHelloInfo) (*tls.Certificate, error) // of the kubelet API

	Gateway string // that stands for the node (gondola.GatewayUse), in the cluster's network; if empty, Pods can use nothing of their node
	// Listen listens for TCP where Addresses are. If nil, they are this host's own.
	Listen func(address string) (net.Listener, error)
}

// Provider runs the nodes and Pods of one cluster. Make it with New.
type Provider struct {
	cfg    Config
	log    *slog.Logger
	engine *engine
	admin  kubernetes.Interface
	ready  chan struct{}
}

// New returns a Provider that does nothing until Run. ErrInvalid names what is missing in cfg.
func New(cfg Config) (*Provider, error) {
	if len(cfg.Drivers) == 0 {
		cfg.Drivers = []string{"gvisor"}
	}
	switch {
	case cfg.Cluster == "":
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: the cluster has no name")
	case len(cfg.Nodes) == 0:
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: cluster %s has no node", cfg.Cluster)
	case cfg.Platform == nil || cfg.Apps == nil || cfg.Admin == nil:
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: cluster %s lacks Platform, Apps or Admin", cfg.Cluster)
	}
	cfg.Domain = cmp.Or(cfg.Domain, "cluster.local")
	cfg.Network = cmp.Or(cfg.Network, cfg.Cluster)
	cfg.KubeletPort = cmp.Or(cfg.KubeletPort, 10250)
	cfg.Refused = cmp.Or(cfg.Refused, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	log := cfg.Log
	admin, err := kubernetes.NewForConfig(unthrottled(cfg.Admin))
	if err != nil {
		return nil, fmt.Errorf("provider of cluster %s: %w", cfg.Cluster, err)
	}
	p := &Provider{cfg: cfg, log: log, engine: newEngine(cfg, log, admin), admin: admin, ready: make(chan struct{})}
	for _, c := range cfg.Nodes {
		if len(c.Addresses) == 0 || c.REST == nil {
			return nil, gondola.Errorf(gondola.ErrInvalid, "provider: node %s of cluster %s lacks Addresses or REST", c.Name, cfg.Cluster)
		}
		client, err := kubernetes.NewForConfig(unthrottled(c.REST))
		if err != nil {
			return nil, fmt.Errorf("provider of cluster %s: node %s: %w", cfg.Cluster, c.Name, err)
		}
		p.engine.nodes[c.Name] = &node{Node: c, port: cfg.KubeletPort, client: client, engine: p.engine, dirty: make(chan struct{}, 1)}
	}
	return p, nil
}

// unthrottled takes client-go's own limits off: the API server has its own (Priority and Fairness).
func unthrottled(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	if c.QPS == 0 && c.RateLimiter == nil {
		c.QPS = -1
	}
	return c
}

// Run drives the cluster until ctx ends. Machines run on when it returns. An error is returned at once where a kubelet API cannot listen.
func (p *Provider) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	e := p.engine
	factory := informers.NewSharedInformerFactory(p.admin, 0)
	e.services = factory.Core().V1().Services().Lister()
	b := record.NewBroadcaster(record.WithContext(ctx))
	defer b.Shutdown()
	b.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: p.admin.CoreV1().Events("")})
	services := newServices(p.cfg, factory, p.admin, b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "gondola-load-balancer"}))
	e.policies = newPolicies(p.cfg, e, factory)
	namespaces := factory.Core().V1().Namespaces().Informer()
	_, _ = namespaces.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		if ns, ok := obj.(*corev1.Namespace); ok {
			e.drops.Add(ns.Name)
		}
	}})
	claimsSynced := e.followClaims(factory)
	synced := []cache.InformerSynced{claimsSynced, namespaces.HasSynced, factory.Core().V1().Services().Informer().HasSynced,
		factory.Discovery().V1().EndpointSlices().Informer().HasSynced,
		factory.Networking().V1().NetworkPolicies().Informer().HasSynced}
	g.Go(func() error { e.dropApps(ctx); return nil })
	for _, n := range e.nodes {
		n.open(ctx)
		if p.cfg.Foreign {
			continue
		}
		inf := e.podInformer(n)
		synced = append(synced, inf.HasSynced)
		g.Go(func() error { inf.RunWithContext(ctx); return nil })
		g.Go(func() error { return (&kubelet{node: n, cfg: p.cfg}).serve(ctx) })
	}
	factory.Start(ctx.Done())
	machines := make(chan struct{})
	g.Go(func() error { e.follow(ctx, sync.OnceFunc(func() { close(machines) })); return nil })
	g.Go(func() error { return p.begin(ctx, g, synced, machines, services) })
	err := g.Wait()
	factory.Shutdown()
	for _, n := range e.nodes {
		n.objects.wg.Wait()
	}
	return err
}

// begin waits for the first whole pictures of Pods, Services and Machines and then sets everything to work.
func (p *Provider) begin(ctx context.Context, g *errgroup.Group, synced []cache.InformerSynced, machines <-chan struct{}, services *services) error {
	e := p.engine
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	g.Go(func() error {
		services.run(ctx, func(err error) { p.log.Warn("virtual services could not be set: trying again", "err", err) })
		return nil
	})
	g.Go(func() error {
		e.policies.run(ctx, func(err error) { p.log.Warn("network policies could not be set", "err", err) })
		return nil
	})
	select {
	case <-machines:
	case <-ctx.Done():
		return nil
	case <-time.After(10 * time.Second): // a region without its worker is shown as such
		p.log.Warn("no worker has told its Machines yet: going on")
	}
	g.Go(func() error { e.tellCapacity(ctx); return nil })
	g.Go(func() error { e.evict(ctx); return nil })
	g.Go(func() error { e.work(ctx); return nil })
	if p.cfg.Foreign {
		close(p.ready)
		return nil
	}
	registered := make(chan struct{}, len(e.nodes))
	for _, n := range e.nodes {
		g.Go(func() error { return n.run(ctx, sync.OnceFunc(func() { registered <- struct{}{} })) })
	}
	for range e.nodes {
		select {
		case <-registered:
		case <-ctx.Done():
			return nil
		}
	}
	close(p.ready)
	return nil
}

// open gives the node what it needs while it runs: its watches, its tokens and its voice.
func (n *node) open(ctx context.Context) {
	n.objects = newObjects(ctx, n.client, func(uids []types.UID) {
		for _, uid := range uids {
			n.engine.queue.Add(uid)
		}
	})
	n.tokens = token.NewManager(n.client)
	// A Pod may tell much in a short time; Events beyond the burst are dropped.
	b := record.NewBroadcaster(record.WithContext(ctx), record.WithCorrelatorOptions(record.CorrelatorOptions{BurstSize: 100, QPS: 1}))
	b.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: n.client.CoreV1().Events("")})
	n.recorder = b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: n.Name})
}

// Ready closes when every Node is registered and the first lists of Pods and Machines are in.
func (p *Provider) Ready() <-chan struct{} { return p.ready }

func (p *Provider) String() string { return "provider of cluster " + p.cfg.Cluster }
