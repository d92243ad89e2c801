// Package gondolatest is the test kit: a whole platform in one process, with no root and no sandboxes, and the contract suite that worker,
// market and client pass.
//
// Machines run on driver/fake: any image whose reference begins with "test/" or "gondola.local/" exists and holds package
// internal/driver/drivertest/program; everything above them (workers with their files, the market, the API over HTTP, tokens) is real.
package gondolatest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/client"
	"gondola/internal/api"
	"gondola/internal/auth"
	"gondola/internal/driver"
	"gondola/internal/driver/fake"
	"gondola/internal/market"
	"gondola/internal/seal"
	"gondola/internal/store"
	"gondola/internal/worker"
)

// Options shape a platform; the zero value is one worker in region "local".
type Options struct {
	Regions []gondola.Region  // If empty, "local".
	Workers int               // per region; if zero, 1
	Total   gondola.Resources // of each worker; if zero, 8 CPUs and 16 GB
	// Disk is the room for Volumes of each worker of a region, in bytes; if zero, 1 TiB.
	Disk   map[gondola.Region]int64
	Images map[string]worker.Image
	// API is the socket that /.fly/api in Machines leads to; whoever wants an answer there serves Platform.Handler on it. If empty, Machines have none.
	API string
	// AskDeadline is the market's. If zero, 5 s: a busy machine shall fail no test.
	AskDeadline time.Duration
	// Limits of the API. If nil, none.
	Limits *api.Limits
	// Log gets what every part logs. If nil, nobody.
	Log *slog.Logger
	// Worker changes the configuration of each worker before it opens.
	Worker func(*worker.Config)
	// Reach says how the market speaks to a worker. If nil, by direct call.
	Reach func(*Worker) gondola.Platform
}

// Platform is a running platform. It ends with its test.
type Platform struct {
	*client.Client // over HTTP, with the root token

	URL     string       // of the API
	Handler http.Handler // the API itself
	Auth    *auth.Authority
	Dir     string // holds every file of it
	Store   *store.Server
	Market  *market.Market
	Workers []*Worker

	t   testing.TB
	opt Options
}

// Worker is one of a Platform.
type Worker struct {
	*worker.Worker
	Name   gondola.WorkerName
	Region gondola.Region
	Host   *fake.Host
	Driver *fake.Driver

	platform *Platform
	config   worker.Config
	stop     func()
}

// New starts a platform.
func New(t testing.TB, o Options) *Platform {
	t.Helper()
	if len(o.Regions) == 0 {
		o.Regions = []gondola.Region{gondola.DefaultRegion}
	}
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.AskDeadline == 0 {
		o.AskDeadline = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Platform{t: t, opt: o, Dir: t.TempDir()}
	var err error
	if p.Store, err = store.OpenServer(filepath.Join(p.Dir, "server.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Store.Close() })
	key, err := seal.OpenKey(filepath.Join(p.Dir, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	p.Market = market.New(market.Config{Index: p.Store, Key: key, Deadline: o.AskDeadline, Log: o.Log})
	if p.Auth, err = auth.Open(t.Context(), auth.Config{Path: filepath.Join(p.Dir, "token"), Records: p.Store, Addresses: p.addresses}); err != nil {
		t.Fatal(err)
	}
	for _, region := range o.Regions {
		for i := range o.Workers {
			name := gondola.WorkerName(region)
			if i > 0 {
				name += gondola.WorkerName("-" + strconv.Itoa(i+1))
			}
			p.AddWorker(name, region)
		}
	}
	run(t, "market", p.Market.Run)
	select {
	case <-p.Market.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the market has not read its workers after 30 s")
	}
	p.Handler = api.New(api.Config{Server: p.Market, Auth: p.Auth, Limits: o.Limits, Log: o.Log, Version: "test"})
	p.URL = Serve(t, p.Handler)
	p.Client = Client(t, p.URL, p.Auth.Root())
	return p
}

// addresses are those of a Machine. Fake Machines are processes of this host, so they send from its loopback too.
func (p *Platform) addresses(ctx context.Context, id gondola.MachineID) ([]netip.Addr, error) {
	m, err := p.Market.Get(ctx, gondola.Ref{ID: id})
	if err != nil || m.State != gondola.Started {
		return nil, err
	}
	return append(slices.Clone(m.Gondola.Addresses), netip.MustParseAddr("127.0.0.1")), nil
}

// AddWorker joins one more worker to the platform and starts it.
func (p *Platform) AddWorker(name gondola.WorkerName, region gondola.Region) *Worker {
	p.t.Helper()
	member, err := p.Store.Join(p.t.Context(), name, region)
	if err != nil {
		p.t.Fatal(err)
	}
	dir := filepath.Join(p.Dir, "worker", string(name))
	w := &Worker{Name: name, Region: region, platform: p, Driver: fake.NewDriver(),
		Host: fake.NewHost(fake.HostConfig{Dir: filepath.Join(dir, "host"), Total: p.opt.Total, Disk: p.opt.Disk[region], Worker: member.Number, Images: p.opt.Images, API: p.opt.API})}
	w.config = worker.Config{Name: name, Region: region, Number: member.Number, Instance: "test", Dir: dir, Host: w.Host,
		Drivers: map[string]driver.Driver{"fake": w.Driver}, Log: p.opt.Log, PullBackoff: gondola.Backoff{First: 50 * time.Millisecond, Max: time.Second}}
	if p.opt.Worker != nil {
		p.opt.Worker(&w.config)
	}
	p.t.Cleanup(func() { w.Driver.Close() })
	p.Workers = append(p.Workers, w)
	w.Start()
	p.t.Cleanup(func() { w.Stop() })
	return w
}

// Start opens a worker that is stopped and waits until it has found its Machines again.
func (w *Worker) Start() {
	t := w.platform.t
	t.Helper()
	opened, err := worker.Open(w.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- opened.Run(ctx) }()
	w.Worker = opened
	w.stop = sync.OnceFunc(func() {
		w.platform.Market.RemoveWorker(w.Name)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("worker %s: %v", w.Name, err)
		}
		opened.Close()
	})
	select {
	case <-opened.Ready():
	case <-time.After(30 * time.Second):
		t.Fatalf("worker %s is not ready after 30 s", w.Name)
	}
	var reach gondola.Platform = opened
	if w.platform.opt.Reach != nil {
		reach = w.platform.opt.Reach(w)
	}
	w.platform.Market.AddWorker(market.Worker{Name: w.Name, Region: w.Region, Number: w.config.Number, Platform: reach})
}

// Stop ends a worker as Ctrl-C does: its Machines run on. Calls to it are ErrUnavailable until it starts again.
func (w *Worker) Stop() { w.stop() }

// NewApp makes an App, in the default network.
func (p *Platform) NewApp(name gondola.AppName) gondola.App {
	p.t.Helper()
	app, err := p.CreateApp(p.t.Context(), gondola.NewApp{Name: name})
	if err != nil {
		p.t.Fatal(err)
	}
	return app
}

// Serve serves a handler on a free port of 127.0.0.1 until the test ends and returns its URL.
func Serve(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}

// Client returns a client of a server.
func Client(t testing.TB, url, token string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: url, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// run runs a task until the test ends.
func run(t testing.TB, what string, task func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- task(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}
