package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"gondola"
	"gondola/internal/api"
	"gondola/internal/auth"
	"gondola/internal/driver"
	"gondola/internal/driver/gvisor"
	"gondola/internal/host"
	"gondola/internal/image"
	"gondola/internal/market"
	"gondola/internal/store"
	"gondola/internal/worker"
)

// parts are the pieces of the platform below Kubernetes.
type parts struct {
	members   *store.Server
	images    *image.Store
	workers   []*worker.Worker
	market    *market.Market
	authority *auth.Authority
	http      *httpTask
}

// settingRegions is the key under which the server's file keeps the regions of the last `up`.
const settingRegions = "regions"

// openServer opens the server's file and settles which regions there are: those asked for, those of the last time, or the default one.
func (p *platform) openServer(ctx context.Context) error {
	s, err := store.OpenServer(filepath.Join(p.Config.Data, "server.db"))
	if err != nil {
		return err
	}
	p.members = s
	p.closers = append(p.closers, s.Close)
	if len(p.Config.Regions) == 0 {
		kept, known, err := s.Setting(ctx, settingRegions)
		if err != nil {
			return err
		}
		if known {
			if err := json.Unmarshal([]byte(kept), &p.Config.Regions); err != nil {
				return fmt.Errorf("regions of the last time: %w", err)
			}
		}
	}
	if len(p.Config.Regions) == 0 {
		p.Config.Regions = []gondola.Region{gondola.DefaultRegion}
	}
	b, err := json.Marshal(p.Config.Regions)
	if err != nil {
		return err
	}
	return s.SetSetting(ctx, settingRegions, string(b))
}

// openWorkers opens images and workers, without starting anything: it serves Down as well.
func (p *platform) openWorkers(ctx context.Context) error {
	pilot, err := ensurePilot(p.Config.Data, p.Pilot)
	if err != nil {
		return err
	}
	registries := map[string]image.Registry{}
	for name, r := range p.Config.Registries {
		registries[name] = image.Registry{Mirror: r.Mirror, PlainHTTP: r.PlainHTTP, Insecure: r.Insecure}
	}
	if p.images, err = image.Open(image.Config{Dir: filepath.Join(p.Config.Data, "images"), Registries: registries, Log: p.log}); err != nil {
		return err
	}
	h, err := host.Open(host.Config{DataDir: p.Config.Data, Instance: p.instance, Images: p.images, Network: p.network, Log: p.log})
	if err != nil {
		return err
	}
	drivers := map[string]driver.Driver{}
	g := gvisor.New(gvisor.Config{PilotPath: pilot, Log: p.log})
	drivers[g.Name()] = g
	share := h.Total()
	share.CPUMillis /= int64(len(p.Config.Regions))
	share.MemoryBytes /= int64(len(p.Config.Regions))
	for _, r := range p.Config.Regions {
		member, err := p.members.Join(ctx, gondola.WorkerName(r), r)
		if err != nil {
			return err
		}
		w, err := worker.Open(worker.Config{
			Name: member.Name, Region: r, Number: member.Number, Instance: p.instance, Dir: filepath.Join(p.Config.Data, "worker", string(r)),
			Host: h.ForWorker(string(r), member.Number, share, p.hostIPs(r)...), Drivers: drivers, DefaultDriver: g.Name(), Log: p.log,
		})
		if err != nil {
			return err
		}
		p.closers = append(p.closers, w.Close)
		p.workers = append(p.workers, w)
	}
	return nil
}

// hostIPs are the addresses of a region's first virtual node: what a Pod there sees as its host.
func (p *platform) hostIPs(r gondola.Region) []netip.Addr {
	nodes, err := p.nodes()
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(nodes, func(n NodeConfig) bool { return n.Region == r })
	return nodes[i].Addresses
}

// startWorkers runs a worker per region, and the demo image in their store.
func (p *platform) startWorkers(ctx context.Context, g *group) error {
	if err := p.openWorkers(ctx); err != nil {
		return err
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
	return nil
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
	p.market = market.New(market.Config{Index: p.members, Workers: workers, Log: p.log})
	var err error
	if p.authority, err = auth.LoadOrCreate(filepath.Join(p.Config.Data, "token")); err != nil {
		return err
	}
	if p.http, err = listenHTTP(p.Config.API, api.New(api.Config{Server: p.market, Auth: p.authority, Log: p.log, Version: p.Version})); err != nil {
		return err
	}
	g.start(p.market)
	g.start(p.http)
	return g.ready(ctx, p.http)
}
