package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"gondola"
	"gondola/internal/kube/datastore"
	"gondola/internal/kube/provider"
)

// How long the parts get to end in good order before they are left behind.
const (
	partsGrace     = 12 * time.Second
	startGrace     = 3 * time.Second // for the API server to have started, before it is told to stop
	apiServerGrace = 15 * time.Second
)

// Cluster is the control plane of one cluster. Make it with New; it runs once.
type Cluster struct {
	cfg    Config
	log    *slog.Logger
	pki    *pki
	market *market
	ready  chan struct{}
}

// New returns a Cluster that does nothing until Run. ErrInvalid says what is wrong with cfg.
func New(cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, log: cfg.Log.With("cluster", cfg.Name), ready: make(chan struct{})}
	c.pki = newPKI(&c.cfg)
	c.market = newMarket(cfg.Platform, c.log)
	return c, nil
}

// Ready closes when kubectl gets answers, every node is Ready and cluster DNS serves.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

func (c *Cluster) String() string { return "kubernetes cluster " + c.cfg.Name }

func (c *Cluster) endpoint() string {
	return "https://" + netip.AddrPortFrom(c.cfg.Address, uint16(c.cfg.Port)).String()
}

// socket is kine's.
func (c *Cluster) socket() string { return c.cfg.path("kine.sock") }

// Run drives the cluster until ctx ends, then stops its parts first, the API server after them and the datastore last, within half a minute.
// It returns nil after an orderly end, else the error of the part that gave up.
func (c *Cluster) Run(caller context.Context) error {
	began := time.Now()
	milestone := func(step string) { c.cfg.Progress(step, time.Since(began)) }
	parts, err := c.prepare()
	if err != nil {
		return err
	}
	hush, restore := bridgeLogs(c.log)
	defer restore()
	milestone("certificates")

	store, err := datastore.Open(c.cfg.path("state.db"), c.socket())
	if err != nil {
		return err
	}
	defer store.Close()
	milestone("datastore")

	ctx, cancel := context.WithCancelCause(caller)
	defer cancel(nil)
	go func() {
		if err := <-store.Failed(); err != nil {
			cancel(fmt.Errorf("datastore: %w", err))
		}
	}()
	apiCtx, stopAPI := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAPI()
	apiDone := start(apiCtx, "API server", parts.apiServer, cancel)
	partsDone := start(ctx, "control plane", func(ctx context.Context) error { return c.runParts(ctx, parts, milestone) }, cancel)

	<-ctx.Done()
	failed := failure(caller, ctx)
	hush()
	c.await(partsDone, partsGrace, "controllers, scheduler and provider")
	c.awaitStart(apiCtx, apiDone)
	stopAPI()
	c.await(apiDone, apiServerGrace, "the API server")
	if failed != nil {
		return fmt.Errorf("cluster %s: %w", c.cfg.Name, failed)
	}
	return nil
}

// failure returns why ctx, which is made of the caller's, has ended; nil if the caller's has.
func failure(caller, ctx context.Context) error {
	if caller.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// awaitStart waits until the API server has started, or has ended, but not for ever. One that is told to stop earlier takes that for fatal, and
// writes so to stderr.
func (c *Cluster) awaitStart(ctx context.Context, ended <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, startGrace)
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}()
	_ = c.answered(ctx, adminClient, "/readyz")
}

// start runs a part in the background. Its early end is everybody's: fail gets the reason.
func start(ctx context.Context, name string, run part, fail context.CancelCauseFunc) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		fail(fmt.Errorf("%s: %w", name, err))
	}()
	return ended
}

// await waits for the end of what was told to stop, but not for ever.
func (c *Cluster) await(done <-chan struct{}, grace time.Duration, what string) {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		c.log.Warn("did not end in time and is left behind", "what", what, "after", grace)
	}
}

// parts are Kubernetes' programs with their flags parsed.
type parts struct{ apiServer, controllers, scheduler part }

// prepare makes certificates and files and parses all flags; nothing runs yet.
func (c *Cluster) prepare() (p parts, err error) {
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return p, err
	}
	if n := len(c.socket()); n > 107 {
		return p, gondola.Errorf(gondola.ErrInvalid, "cluster %s: the path of its socket %s has %d characters and Linux takes 107: use a shorter data directory", c.cfg.Name, c.socket(), n)
	}
	StampVersion()
	if err := c.pki.ensure(); err != nil {
		return p, err
	}
	for _, identity := range []string{controllerClient, schedulerClient, dnsClient} {
		b, err := clientcmd.Write(*c.kubeconfig(identity))
		if err != nil {
			return p, err
		}
		if err := os.WriteFile(c.cfg.path(identity+".kubeconfig"), b, 0o600); err != nil {
			return p, err
		}
	}
	if p.apiServer, err = c.newAPIServer(); err != nil {
		return p, err
	}
	if p.controllers, err = c.newControllers(); err != nil {
		return p, err
	}
	if p.scheduler, err = c.newScheduler(); err != nil {
		return p, err
	}
	return p, sealFeatures()
}

// runParts runs everything that talks to the API server, each part as soon as the API server answers it: a part that starts too early loses
// a second or more to its own back-off.
func (c *Cluster) runParts(ctx context.Context, p parts, milestone func(string)) error {
	admin, err := kubernetes.NewForConfig(c.rest(adminClient))
	if err != nil {
		return err
	}
	nodes, err := c.newProvider()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	bootstrapped, dnsServes := make(chan struct{}), make(chan struct{})
	g.Go(func() error {
		defer close(bootstrapped)
		return retry(ctx, 5*time.Millisecond, func(ctx context.Context) error { return bootstrap(ctx, admin, &c.cfg) })
	})
	g.Go(func() error {
		if err := c.answered(ctx, adminClient, "/api/v1/namespaces/default"); err == nil {
			milestone("API server")
		}
		return nil
	})
	g.Go(func() error { // wants /healthz to be ok too, but looks only once a second and no longer than ten
		if err := healthy(ctx, admin); err != nil {
			return err
		}
		return part.until(p.controllers, ctx, "controllers")
	})
	g.Go(func() error {
		if err := c.answered(ctx, schedulerClient, "/api/v1/nodes?limit=1"); err != nil {
			return err
		}
		return part.until(p.scheduler, ctx, "scheduler")
	})
	g.Go(func() error { return c.market.run(ctx) })
	g.Go(func() error {
		if !received(ctx, bootstrapped) {
			return nil
		}
		if err := c.answered(ctx, dnsClient, "/api/v1/services?limit=1"); err != nil {
			return err
		}
		stop, err := startDNS(&c.cfg, c.cfg.path(dnsClient+".kubeconfig"))
		if err != nil {
			return err
		}
		defer stop()
		close(dnsServes)
		<-ctx.Done()
		return nil
	})
	g.Go(func() error { return c.runProvider(ctx, nodes, bootstrapped) })
	g.Go(func() error { return c.runStorage(ctx, nodes, bootstrapped) })
	g.Go(func() error { return c.announceReady(ctx, admin, dnsServes, milestone) })
	g.Go(func() error { return c.renew(ctx) })
	return g.Wait()
}

// until runs a part and says which one it was when it ends although nobody asked it to.
func (p part) until(ctx context.Context, name string) error {
	err := p(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("ended by itself")
	}
	return fmt.Errorf("%s: %w", name, err)
}

// newProvider returns what serves the nodes; nil where there are none.
func (c *Cluster) newProvider() (*provider.Provider, error) {
	if c.cfg.Platform == nil || len(c.cfg.Nodes) == 0 {
		return nil, nil
	}
	cfg, err := c.providerConfig()
	if err != nil {
		return nil, err
	}
	return provider.New(cfg)
}

// runProvider serves the nodes.
func (c *Cluster) runProvider(ctx context.Context, p *provider.Provider, bootstrapped <-chan struct{}) error {
	if p == nil {
		return nil
	}
	if !received(ctx, bootstrapped) {
		return nil
	}
	if err := c.answered(ctx, providerClient, "/api/v1/services?limit=1"); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return part(p.Run).until(ctx, "provider") })
	g.Go(func() error { return c.runMetrics(ctx, p.MetricsAPI()) })
	return g.Wait()
}

func (c *Cluster) providerConfig() (provider.Config, error) {
	authorities, err := c.pki.authorities()
	if err != nil {
		return provider.Config{}, err
	}
	cfg := provider.Config{Cluster: c.cfg.Name, Domain: c.cfg.Domain, DNS: c.cfg.dnsAddresses(), Network: c.cfg.Network, ClientCA: authorities,
		Admin: c.rest(providerClient), Platform: c.cfg.Platform, Apps: c.cfg.Apps, Drivers: c.cfg.Drivers, FallbackDriver: c.cfg.FallbackDriver, PodStarted: c.cfg.PodStarted, Log: c.cfg.Log}
	for _, n := range c.cfg.Nodes {
		cfg.Nodes = append(cfg.Nodes, provider.Node{Name: n.Name, Region: n.Region, Addresses: n.Addresses, REST: c.rest(nodeClient(n.Name)), Serving: c.pki.serving(nodeServing(n.Name)),
			Gateway: n.Gateway, Listen: n.Listen})
	}
	return cfg, nil
}

// announceReady closes c.ready when what a user would try next works: kubectl, a Pod, a name.
func (c *Cluster) announceReady(ctx context.Context, admin kubernetes.Interface, dnsServes <-chan struct{}, milestone func(string)) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		if received(ctx, dnsServes) && retry(ctx, 10*time.Millisecond, c.resolves) == nil {
			milestone("cluster DNS")
		}
	})
	wg.Go(func() {
		if c.cfg.Platform != nil && retry(ctx, 20*time.Millisecond, func(ctx context.Context) error { return c.nodesReady(ctx, admin) }) == nil {
			milestone("nodes")
		}
	})
	// Without this account no Pod can be made; the controllers make it after the first start.
	err := c.answered(ctx, adminClient, "/api/v1/namespaces/default/serviceaccounts/default")
	wg.Wait()
	if err == nil && ctx.Err() == nil {
		milestone("ready")
		close(c.ready)
	}
	return nil
}

// resolves asks the cluster's DNS for itself. (Service kubernetes comes later: the API server publishes it once all its hooks are done.)
func (c *Cluster) resolves(ctx context.Context) error {
	server := netip.AddrPortFrom(c.cfg.Address, uint16(c.cfg.DNSPort)).String()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, server)
	}}
	_, err := r.LookupHost(ctx, dnsService+"."+metav1.NamespaceSystem+".svc."+c.cfg.Domain+".")
	return err
}

func (c *Cluster) nodesReady(ctx context.Context, admin kubernetes.Interface) error {
	list, err := admin.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	waiting := map[string]bool{}
	for _, n := range c.cfg.Nodes {
		waiting[n.Name] = true
	}
	for i := range list.Items {
		for _, cond := range list.Items[i].Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				delete(waiting, list.Items[i].Name)
			}
		}
	}
	if len(waiting) > 0 {
		return fmt.Errorf("%d nodes are not Ready", len(waiting))
	}
	return nil
}

// renew looks after the certificates once a day.
func (c *Cluster) renew(ctx context.Context) error {
	t := time.NewTicker(24 * time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := c.pki.ensure(); err != nil {
				c.log.Error("certificates could not be renewed; tried again tomorrow", "error", err)
				continue
			}
			if c.cfg.Renewed != nil {
				c.cfg.Renewed()
			}
		}
	}
}

// healthy waits until the API server says that all of it is up.
func healthy(ctx context.Context, admin kubernetes.Interface) error {
	return retry(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		return admin.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// answered waits until the API server lets an identity read a path.
func (c *Cluster) answered(ctx context.Context, identity, uri string) error {
	client, err := kubernetes.NewForConfig(c.rest(identity))
	if err != nil {
		return err
	}
	return retry(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().RequestURI(uri).Do(ctx).Error()
	})
}

// retry calls f until it succeeds or ctx ends.
func retry(ctx context.Context, pause time.Duration, f func(context.Context) error) error {
	t := time.NewTicker(pause)
	defer t.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-t.C:
		}
	}
}

// received waits for a channel to close; false if ctx ended first.
func received(ctx context.Context, ch <-chan struct{}) bool {
	select {
	case <-ch:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
