package daemon

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"gondola"
	"gondola/internal/api"
	"gondola/internal/auth"
	"gondola/internal/driver"
	"gondola/internal/driver/gvisor"
	"gondola/internal/driver/runc"
	"gondola/internal/host"
	"gondola/internal/image"
	"gondola/internal/market"
	"gondola/internal/seal"
	"gondola/internal/store"
	"gondola/internal/worker"
)

// parts are the pieces of the platform below Kubernetes.
type parts struct {
	pilot     string // path
	members   *store.Server
	secrets   *seal.Key // seals the secrets of Apps
	images    *image.Store
	host      *host.Host
	workers   []*worker.Worker
	market    *market.Market
	authority *auth.Authority
	warm      *driver.Warm // nil: there can be none
}

// settingRegions is the key under which the server's file keeps the regions of the last `up`.
const settingRegions = "regions"

// startServer opens the server's file and settles which regions there are, and which numbers their nodes have. Regions that are left out and still
// have Machines are refused: nobody would look after those.
func (p *platform) startServer(ctx context.Context, _ *group) error {
	if err := p.openServer(ctx); err != nil {
		return err
	}
	if err := p.openSecrets(ctx); err != nil {
		return err
	}
	if len(p.Config.Regions) == 0 {
		kept, err := p.keptRegions(ctx)
		if err != nil {
			return err
		}
		p.Config.Regions = kept
	}
	if len(p.Config.Regions) == 0 {
		p.Config.Regions = []gondola.Region{gondola.DefaultRegion}
	}
	if err := p.checkDropped(ctx); err != nil {
		return err
	}
	return p.settleNodes(ctx)
}

func (p *platform) openServer(ctx context.Context) error {
	s, err := store.OpenServer(filepath.Join(p.Config.Data, "server.db"))
	if err != nil {
		return err
	}
	p.members = s
	p.closers = append(p.closers, s.Close)
	return nil
}

// secretsKey is the file with the key that seals the secrets of Apps, beside the database that holds them.
const secretsKey = "secrets.key"

// openSecrets opens the key of secrets. A new one where there are secrets already could open none of them.
func (p *platform) openSecrets(ctx context.Context) error {
	path := filepath.Join(p.Config.Data, secretsKey)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if _, err := p.members.AnySecret(ctx); !errors.Is(err, gondola.ErrNotFound) {
			return errors.Join(err, gondola.Errorf(gondola.ErrPrecondition, "%s is missing, and without it the secrets of apps cannot be read: put it back, from a backup", path))
		}
	}
	key, err := seal.OpenKey(path)
	if err != nil {
		return fmt.Errorf("key of secrets: %w", err)
	}
	p.secrets = key
	return nil
}

// keptRegions are those of the last `up`; none before the first.
func (p *platform) keptRegions(ctx context.Context) (regions []gondola.Region, err error) {
	kept, known, err := p.members.Setting(ctx, settingRegions)
	if err != nil || !known {
		return nil, err
	}
	if err := json.Unmarshal([]byte(kept), &regions); err != nil {
		return nil, fmt.Errorf("regions of the last time: %w", err)
	}
	return regions, nil
}

func (p *platform) keepRegions(ctx context.Context) error {
	b, err := json.Marshal(p.Config.Regions)
	if err != nil {
		return err
	}
	return p.members.SetSetting(ctx, settingRegions, string(b))
}

// checkDropped refuses to leave out a region that has Machines.
func (p *platform) checkDropped(ctx context.Context) error {
	members, err := p.members.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if slices.Contains(p.Config.Regions, m.Region) {
			continue
		}
		n, volumes, err := countMachines(ctx, p.workerDir(m.Region))
		if err != nil {
			return err
		}
		if n == 0 && volumes == 0 {
			continue
		}
		all := ""
		for _, r := range append(slices.Clone(p.Config.Regions), m.Region) {
			all += " --region " + string(r)
		}
		return gondola.Errorf(gondola.ErrPrecondition, "region %s has %d Machines and %d Volumes and is not among those to start: keep it, with gondola up%s; "+
			"or destroy them first, with gondola machine destroy and gondola volume destroy --now, while it runs", m.Region, n, volumes, all)
	}
	return nil
}

func (p *platform) workerDir(r gondola.Region) string {
	return filepath.Join(p.Config.Data, "worker", string(r))
}

// countMachines says how many Machines and Volumes a worker that does not run has on record.
func countMachines(ctx context.Context, dir string) (machines, volumes int, err error) {
	path := filepath.Join(dir, "worker.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	w, err := store.OpenWorker(path)
	if err != nil {
		return 0, 0, err
	}
	defer w.Close()
	ms, err := w.Machines(ctx)
	if err != nil {
		return 0, 0, err
	}
	vs, err := w.Volumes(ctx)
	for _, v := range vs {
		if v.DestroyedAt.IsZero() {
			volumes++
		}
	}
	return len(ms), volumes, err
}

// openWorkers opens images and workers, without starting anything: it serves Down as well.
func (p *platform) openWorkers(ctx context.Context) error {
	var err error
	if p.pilot, err = ensurePilot(p.Config.Data, p.Pilot); err != nil {
		return err
	}
	registries := map[string]image.Registry{}
	for name, r := range p.Config.Registries {
		registries[name] = image.Registry{Mirror: r.Mirror, PlainHTTP: r.PlainHTTP, Insecure: r.Insecure}
	}
	if p.images, err = image.Open(image.Config{Dir: filepath.Join(p.Config.Data, "images"), Registries: registries, Log: p.log}); err != nil {
		return err
	}
	h, err := host.Open(host.Config{DataDir: p.Config.Data, Instance: p.instance, Images: p.images, Network: p.network, Reserve: p.Config.Reserve.resources(), Log: p.log})
	if err != nil {
		return err
	}
	p.host = h
	if slices.Contains(p.Config.Drivers, "runc") {
		if _, err := runc.Find(""); err != nil {
			return err
		}
	}
	drivers := map[string]driver.Driver{}
	gv := gvisor.New(gvisor.Config{PilotPath: p.pilot, Warm: p.warmConfig(), Log: p.log})
	p.warm = gv.Warm
	for _, d := range []driver.Driver{gv, runc.New(runc.Config{PilotPath: p.pilot, Log: p.log})} {
		drivers[d.Name()] = d
	}
	r, err := netip.ParsePrefix(p.Config.Range)
	if err != nil {
		return err
	}
	dns := gondola.DNSConfig{Nameservers: nameservers(r, resolvFiles...)}
	share := h.Total()
	share.CPUMillis /= int64(len(p.Config.Regions))
	share.MemoryBytes /= int64(len(p.Config.Regions))
	for _, r := range p.Config.Regions {
		member, err := p.members.Join(ctx, gondola.WorkerName(r), r)
		if err != nil {
			return err
		}
		w, err := worker.Open(worker.Config{
			Name: member.Name, Region: r, Number: member.Number, Instance: p.instance, Dir: p.workerDir(r),
			Host: h.ForWorker(string(r), member.Number, share, p.hostIPs(r)...), Drivers: drivers,
			Allowed: p.Config.Drivers, DefaultDriver: p.Config.Drivers[0], DNS: dns, Log: p.log,
			Processes: p.maxProcesses(), LogBytes: p.Config.Limits.LogMB << 20,
		})
		if err != nil {
			return err
		}
		p.closers = append(p.closers, w.Close)
		p.workers = append(p.workers, w)
	}
	return nil
}

// maxProcesses is how many processes a Machine may have; zero is no limit.
func (p *platform) maxProcesses() int64 {
	switch n := p.Config.Limits.Processes; n {
	case -1:
		return 0
	case 0:
		return p.host.MaxProcesses()
	default:
		return n
	}
}

// warmConfig says which sandboxes stand ready: at first those of a Machine that says nothing of its size.
func (p *platform) warmConfig() driver.WarmConfig {
	_, limits := (&gondola.Config{}).Requests()
	return driver.WarmConfig{Dir: p.host.WarmDir(), Instance: p.instance, Size: p.Config.Warm, First: driver.Kind{Limits: limits, Processes: p.maxProcesses()}}
}

// hostIPs are the addresses of a region's first virtual node: what a Pod there sees as its host.
func (p *platform) hostIPs(r gondola.Region) []netip.Addr {
	nodes, err := p.nodes()
	if err != nil {
		return nil
	}
	if i := slices.IndexFunc(nodes, func(n NodeConfig) bool { return n.Region == r }); i >= 0 {
		return nodes[i].Addresses
	}
	return nil
}

// startWorkers runs a worker per region, and the demo image in their store.
func (p *platform) startWorkers(ctx context.Context, g *group) error {
	if err := p.openWorkers(ctx); err != nil {
		return err
	}
	if err := p.keepRegions(ctx); err != nil {
		return err
	}
	if err := p.host.Bound(); err != nil { // they are bounded one by one all the same
		p.log.Warn("Machines together can take all of this host", "err", err)
	}
	hello, err := unpack(p.Hello)
	if err != nil {
		return fmt.Errorf("demo image: %w", err)
	}
	if len(hello) > 0 {
		if err := p.images.AddHello(ctx, hello); err != nil {
			return fmt.Errorf("demo image: %w", err)
		}
	}
	for _, w := range p.workers {
		g.start(w)
	}
	for _, w := range p.workers {
		if err := g.ready(ctx, w); err != nil {
			return err
		}
	}
	g.start(p.host.Guard(p.memory))
	if p.warm != nil {
		g.start(p.warm)
	}
	removeOldPilots(p.Config.Data, p.pilot, p.log)
	return nil
}

// memory is how many bytes the Machines of all workers asked for.
func (p *platform) memory() map[gondola.MachineID]int64 {
	all := map[gondola.MachineID]int64{}
	for _, w := range p.workers {
		maps.Copy(all, w.Memory())
	}
	return all
}

// startAPI serves the market of all workers.
func (p *platform) startAPI(ctx context.Context, g *group) error {
	workers := make([]market.Worker, 0, len(p.workers))
	for i, w := range p.workers {
		member, err := p.members.Member(ctx, gondola.WorkerName(p.Config.Regions[i]))
		if err != nil {
			return err
		}
		workers = append(workers, market.Worker{Name: member.Name, Region: member.Region, Number: member.Number, Host: p.instance, Platform: w})
	}
	p.metrics = newMetrics(p.Version)
	p.market = market.New(market.Config{Index: p.members, Key: p.secrets, Workers: workers, Observe: p.metrics.purchased, Log: p.log})
	p.metrics.watch(p.market, p.workers)
	var err error
	if p.authority, err = auth.Open(ctx, auth.Config{Path: filepath.Join(p.Config.Data, "token"), Records: p.members, Addresses: p.addressesOf}); err != nil {
		return err
	}
	g.start(p.market)
	if err := g.ready(ctx, p.market); err != nil {
		return err
	}
	p.served = true
	handler := api.New(api.Config{Server: p.market, Auth: p.authority, Log: p.log, Version: p.Version, Limits: p.Config.RateLimits.limits(),
		Observe: p.metrics.answered, Metrics: p.metrics.handler(), MachineMetrics: (&scraper{machines: p.market, streams: p.market}).handler()})
	handler = p.traced(handler)
	inside, err := listenMachines(p.host.API())
	if err != nil {
		return err
	}
	g.start(serveHTTP(inside, auth.FromMachines(handler)))
	h := serveHTTP(p.listener, handler)
	g.start(h)
	if err := p.startRemote(g, handler); err != nil {
		return err
	}
	return g.ready(ctx, h)
}

// addressesOf are the addresses from which a Machine sends.
func (p *platform) addressesOf(ctx context.Context, id gondola.MachineID) ([]netip.Addr, error) {
	m, err := p.market.Get(ctx, gondola.Ref{ID: id})
	if err != nil || m.Gondola == nil {
		return nil, err
	}
	return m.Gondola.Addresses, nil
}

// startPublisher opens the ports of Machines' services on this host.
func (p *platform) startPublisher(_ context.Context, g *group) error {
	workers := make([]gondola.WorkerName, 0, len(p.workers))
	for _, r := range p.Config.Regions {
		workers = append(workers, gondola.WorkerName(r))
	}
	g.start(p.host.Publisher(p.market, p.market, workers))
	return nil
}

// startRemote serves the API to other machines.
func (p *platform) startRemote(g *group, handler http.Handler) error {
	if len(p.remote) == 0 {
		return nil
	}
	config, err := p.remoteTLS()
	if err != nil {
		return err
	}
	for _, r := range p.remote {
		g.start(serveHTTP(tls.NewListener(r.api, config), handler))
		p.Say("  %-32s", "also on https://"+r.api.Addr().String())
	}
	return nil
}
