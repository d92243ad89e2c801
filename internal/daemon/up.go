// Package daemon is the running platform: it reads the config file, holds the data directory, joins the parts (network, images, workers,
// market, API, cluster) as Tasks, and takes them apart again. Kubernetes is handed in, so that testing all else never compiles it.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/client"
	"gondola/internal/durable"
	"gondola/internal/host"
	"gondola/internal/network"
	"gondola/internal/store"
)

// Options is what Up needs to know.
type Options struct {
	Config  Config
	Version string
	Pilot   []byte // gondola-pilot, gzip'ed; empty: a gondola-pilot beside the executable is used
	Hello   []byte // program of the demo image, gzip'ed; empty: there is no demo image

	// NewCluster makes the control plane of a Kubernetes cluster; nil: none is started.
	NewCluster func(ClusterConfig) (Cluster, error)
	// MergeKubeconfig adds a kubeconfig to a file of the user, and makes its context current where it is new there or none is. It returns which one is.
	MergeKubeconfig func(path string, kubeconfig []byte, uid, gid int) (current string, err error)
	// RenewKubeconfig brings a newer kubeconfig into a file of the user that has it, and nothing else.
	RenewKubeconfig func(path string, kubeconfig []byte) error

	// Say prints a line of progress.
	Say func(format string, args ...any)
}

// Cluster is a Kubernetes cluster as a Task.
type Cluster interface {
	Task
	Kubeconfig() ([]byte, error) // of its administrator
}

// ClusterConfig says what cluster to make.
type ClusterConfig struct {
	Name         string
	Dir          string
	Address      netip.Addr // of the API server and the DNS server, on lo
	AddressV6    netip.Addr
	Port         int
	Names        []string       // further names and addresses under which the API server is reached
	ServiceCIDRs []netip.Prefix // IPv4 first
	Nodes        []NodeConfig
	Platform     gondola.Platform
	Apps         gondola.Apps
	Network      string
	Renewed      func() // Kubeconfig may return a newer one
	PodStarted   func(region gondola.Region, took time.Duration)
	Drivers      []string // that Machines may ask for, the default first
	// FallbackDriver runs Pods without a RuntimeClass that ask for what the default driver cannot give. If empty, such Pods are refused.
	FallbackDriver string
	Say            func(step string, took time.Duration)
	Log            *slog.Logger
}

// NodeConfig is a virtual node.
type NodeConfig struct {
	Name      string
	Region    gondola.Region
	Addresses []netip.Addr // of its gateway, IPv4 first

	Gateway string // that stands for it, in the network of the cluster
	// Listen listens in the gateway's network; its listeners end with this process.
	Listen func(address string) (net.Listener, error)
}

// Up starts everything and runs it until ctx ends. Machines run on then. An Up that fails before it serves for the first time leaves nothing
// behind; a later one leaves what was there.
func Up(ctx context.Context, o Options) error {
	began := time.Now()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // most of the heap is Kubernetes' schemas, which never change: 40 MiB less for little CPU
	}
	unix.Umask(0o022) // whatever that of who starts it: programs in containers, under users of their own, read what is made for them
	c, err := o.Config.complete()
	if err != nil {
		return err
	}
	o.Config = c
	if os.Geteuid() != 0 {
		return gondola.Errorf(gondola.ErrForbidden, "gondola up makes network namespaces and sandboxes and needs root: sudo gondola up")
	}
	for _, c := range host.Checks() {
		if !c.OK && c.Required {
			return gondola.Errorf(gondola.ErrUnsupported, "this host lacks something: %s: %s\n  %s\nsee all with: gondola doctor", c.Name, c.Detail, c.Remedy)
		}
	}
	if err := ensureData(c.Data); err != nil {
		return err
	}
	release, err := lock(c.Data, "up")
	if err != nil {
		return err
	}
	defer release()
	fresh, err := isFresh(c.Data)
	if err != nil {
		return err
	}
	p := &platform{Options: o}
	err = p.run(ctx, began)
	if err != nil && fresh && !p.served {
		err = errors.Join(err, p.undo(context.WithoutCancel(ctx)))
	}
	return err
}

// run is Up on a data directory that is ours.
func (p *platform) run(ctx context.Context, began time.Time) (err error) {
	if err := checkDisk(p.Config.Data); err != nil {
		return err
	}
	stopTraces, err := startTraces(ctx, p.Config.Traces, p.Version)
	if err != nil {
		return err
	}
	defer stopTraces()
	l, err := p.listen()
	if err != nil {
		return err
	}
	defer l.Close()
	defer p.closeRemote()
	p.listener = l
	if p.instance, err = ensureInstance(p.Config.Data); err != nil {
		return err
	}
	logs, err := openLog(p.Config.Data, maxLog)
	if err != nil {
		return err
	}
	defer logs.Close()
	p.log = slog.New(slog.NewTextHandler(logs, nil))
	p.log.Info("gondola up", "version", p.Version, "process", os.Getpid())
	g := newGroup(ctx)
	err = p.start(ctx, g)
	if err == nil {
		p.Say("ready in %.1f s", time.Since(began).Seconds())
		p.next()
		if err := notify("READY=1"); err != nil {
			p.log.Warn("the service manager does not hear that the daemon is ready", "error", err)
		}
		err = g.wait(ctx)
	}
	if ctx.Err() != nil {
		err = nil
		p.Say("stopping; Machines run on, and gondola up takes them back")
	}
	if err != nil {
		p.log.Error("gondola up ends", "error", err)
	}
	return errors.Join(err, g.stop(), p.close())
}

// platform is what Up has made so far.
type platform struct {
	Options
	instance string
	log      *slog.Logger
	metrics  *metrics
	listener net.Listener // of the API, from before anything else is made
	remote   []remoteListeners
	served   bool // the API has answered: there may be Machines that somebody relies on
	network  *network.Network
	services int            // number of the cluster's Service ranges in the plan
	numbers  map[string]int // of virtual nodes, by name
	parts
	closers    []func() error
	cluster    string                 // kubeconfig's path
	contexts   []string               // that are current in the users' kubeconfigs that have ours
	kubeconfig func() ([]byte, error) // of the cluster that runs; nil: none does
	server     string                 // URL of the API server
}

// start makes one part after the other.
func (p *platform) start(ctx context.Context, g *group) error {
	steps := []struct {
		name string
		do   func(ctx context.Context, g *group) error
	}{
		{"server", p.startServer},
		{"network", p.startNetwork},
		{"workers", p.startWorkers},
		{"API on http://" + p.Config.API, p.startAPI},
		{"ports of Machines", p.startPublisher},
		{"Kubernetes", p.startCluster},
	}
	for _, s := range steps {
		t := time.Now()
		if err := s.do(ctx, g); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		p.Say("%-34s %5.2f s", s.name, time.Since(t).Seconds())
	}
	return nil
}

// undo removes what a first Up that failed has made.
func (p *platform) undo(ctx context.Context) error {
	if p.instance != "" {
		if err := purge(ctx, p.Config, p.instance, p.Say); err != nil {
			return fmt.Errorf("%w; remove the rest with: gondola down --purge", err)
		}
		return nil
	}
	return emptyData(p.Config.Data)
}

func (p *platform) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	return errors.Join(errs...)
}

// startNetwork puts this host's own addresses in place and looks after the firewall.
func (p *platform) startNetwork(ctx context.Context, g *group) error {
	cfg, err := p.networkConfig()
	if err != nil {
		return err
	}
	if err := network.CheckRange(cfg, cfg.Range); err != nil {
		return err
	}
	if p.NewCluster != nil {
		if err := p.settleServices(ctx, cfg); err != nil {
			return err
		}
	}
	if p.network, err = network.Open(cfg); err != nil {
		return err
	}
	v4, v6, err := p.network.Plan().ClusterAddress(1)
	if err != nil {
		return err
	}
	plan := network.HostPlan{Addresses: []netip.Addr{v4, v6}}
	if p.NewCluster != nil {
		s4, s6, err := p.network.Plan().ServiceRange(p.services)
		if err != nil {
			return err
		}
		plan.ServiceRanges = []network.ServiceRange{{Prefix: s4, Source: v4}, {Prefix: s6, Source: v6}}
	}
	if err := p.network.EnsureHost(ctx, plan); err != nil {
		return err
	}
	nodes, err := p.nodes()
	if err != nil {
		return err
	}
	gateways := make([]network.Gateway, 0, len(nodes))
	for _, node := range nodes {
		gateways = append(gateways, network.Gateway{Network: p.Config.Cluster, Name: node.Gateway, Addresses: node.Addresses, Taken: []uint16{kubeletPort}})
	}
	if err := p.network.EnsureGateways(ctx, gateways); err != nil {
		return err
	}
	g.start(p.network)
	for _, w := range firewalls(p.Config) {
		p.log.Warn("another firewall on this host", "name", w.Name, "detail", w.Detail, "remedy", w.Remedy)
		p.Say("note: %s: %s\n      %s", w.Name, w.Detail, w.Remedy)
	}
	return nil
}

// settingServices is the key under which the server's file keeps the number of the Service ranges: a cluster never changes them.
const settingServices = "service-range"

// settleServices chooses Service ranges that no route of this host overlaps, for good. Those of a cluster of before must still be so.
func (p *platform) settleServices(ctx context.Context, cfg network.Config) error {
	kept, known, err := p.members.Setting(ctx, settingServices)
	if err != nil {
		return err
	}
	before, err := filepath.Glob(filepath.Join(p.Config.Data, "clusters", "*", "*.db"))
	switch {
	case err != nil:
		return err
	case known:
		if p.services, err = strconv.Atoi(kept); err != nil {
			return fmt.Errorf("service range of the last time: %w", err)
		}
	case len(before) > 0: // of a release that had no choice
		p.services = 1
	default:
		if p.services, err = network.FreeServiceRange(cfg); err != nil {
			return err
		}
	}
	if err := network.CheckServiceRange(cfg, p.services); err != nil {
		return err
	}
	return p.members.SetSetting(ctx, settingServices, strconv.Itoa(p.services))
}

func (p *platform) networkConfig() (network.Config, error) {
	r, err := netip.ParsePrefix(p.Config.Range)
	if err != nil {
		return network.Config{}, err
	}
	pools, err := p.Config.pools()
	if err != nil {
		return network.Config{}, err
	}
	return network.Config{Instance: p.instance, Range: r, Pools: pools, Reserved: p.ownPorts(), StateFile: filepath.Join(p.Config.Data, "network.json"), Log: p.log}, nil
}

// ownPorts are those that the platform listens on, now or in a moment.
func (p *platform) ownPorts() map[uint16]string {
	own := map[uint16]string{dnsPort: "the cluster's DNS has it", kubeletPort: "the kubelet API has it", uint16(p.Config.KubernetesPort): "the Kubernetes API server has it"}
	if a, err := netip.ParseAddrPort(p.Config.API); err == nil {
		own[a.Port()] = "the Machines API has it"
	}
	return own
}

// plan says which addresses everything has.
func (p *platform) plan() (network.Plan, error) {
	r, err := netip.ParsePrefix(p.Config.Range)
	return network.Plan{Range: r}, err
}

// startCluster starts Kubernetes on a client of our own API: the same way for this platform and for any other.
func (p *platform) startCluster(ctx context.Context, g *group) error {
	if p.NewCluster == nil {
		return p.writeRunning()
	}
	c, err := client.New(client.Config{URL: "http://" + p.Config.API, Token: p.authority.Internal(), HTTP: p.tracedClient()})
	if err != nil {
		return err
	}
	v4, v6, err := p.network.Plan().ClusterAddress(1)
	if err != nil {
		return err
	}
	s4, s6, err := p.network.Plan().ServiceRange(p.services)
	if err != nil {
		return err
	}
	nodes, err := p.nodes()
	if err != nil {
		return err
	}
	databases, err := filepath.Glob(filepath.Join(p.Config.Data, "clusters", p.Config.Cluster, "*.db"))
	for _, path := range databases {
		err = errors.Join(err, store.Sound(ctx, path))
	}
	if err != nil {
		return err
	}
	p.server = fmt.Sprintf("https://%s:%d", v4, p.Config.KubernetesPort)
	cluster, err := p.NewCluster(ClusterConfig{
		Name: p.Config.Cluster, Dir: filepath.Join(p.Config.Data, "clusters", p.Config.Cluster), Address: v4, AddressV6: v6, Port: p.Config.KubernetesPort,
		Names: p.Config.remoteNames(), ServiceCIDRs: []netip.Prefix{s4, s6}, Nodes: nodes, Platform: c, Apps: c, Network: p.Config.Cluster, Drivers: p.Config.Drivers, FallbackDriver: p.Config.FallbackDriver, PodStarted: p.metrics.podStarted, Renewed: func() { p.renewed() }, Log: p.log,
		Say: func(step string, took time.Duration) { p.Say("  %-32s %5.2f s", step, took.Seconds()) },
	})
	if err != nil {
		return err
	}
	g.start(cluster)
	if err := g.ready(ctx, cluster); err != nil {
		return err
	}
	for _, r := range p.remote {
		f := newForward(r.kubernetes, netip.AddrPortFrom(v4, uint16(p.Config.KubernetesPort)))
		g.start(f)
		p.Say("  %-32s", "also on https://"+r.kubernetes.Addr().String())
	}
	kubeconfig, err := cluster.Kubeconfig()
	if err != nil {
		return err
	}
	if err := p.writeKubeconfigs(kubeconfig); err != nil {
		return err
	}
	p.kubeconfig = cluster.Kubeconfig
	return p.writeRunning()
}

// writeRunning says in the data directory where everything is.
func (p *platform) writeRunning() error {
	up := client.Running{API: "http://" + p.Config.API, TokenFile: filepath.Join(p.Config.Data, "token"), Regions: p.Config.Regions, Clusters: []client.RunningCluster{}}
	if p.cluster != "" {
		up.Clusters = append(up.Clusters, client.RunningCluster{Name: p.Config.Cluster, Kubeconfig: p.cluster, Server: p.server})
	}
	b, err := json.MarshalIndent(up, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(p.Config.Data, client.RunningFile), append(b, '\n'), 0o600)
}

// next tells what to type next.
func (p *platform) next() {
	if p.cluster != "" {
		kubectl, name := "gondola kubectl", "gondola-"+p.Config.Cluster
		switch {
		case len(p.contexts) == 0:
			kubectl += " --kubeconfig " + p.cluster
			p.Say("\nKubernetes runs. In another terminal:")
		case slices.ContainsFunc(p.contexts, func(current string) bool { return current != name }):
			kubectl += " --context " + name
			p.Say("\nkubectl is set up (context %s; another one is current and stays so). In another terminal:", name)
		default:
			p.Say("\nkubectl is set up (context %s). In another terminal:", name)
		}
		p.Say("  %s create deployment hello --image=gondola.local/hello --replicas=3", kubectl)
		p.Say("  %s get pods -o wide", kubectl)
	}
	p.Say("  gondola machine list")
	p.Say("Ctrl-C stops the daemon and leaves the Machines running.")
}
