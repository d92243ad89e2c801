package market_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/internal/gondolatest"
)

const patience = 20 * time.Second

// spoiled is a worker whose answers a test changes.
type spoiled struct {
	gondola.Platform
	ask    func(ctx context.Context) error
	create func(ctx context.Context, then func() (gondola.Machine, error)) (gondola.Machine, error)
	police func(ctx context.Context) error

	mu      sync.Mutex
	down    bool
	cut     context.CancelFunc // ends the watches that are open
	creates atomic.Int64
	asks    atomic.Int64
}

func (s *spoiled) Ask(ctx context.Context, ask gondola.Ask) (gondola.Auction, error) {
	s.asks.Add(1)
	if s.ask != nil {
		if err := s.ask(ctx); err != nil {
			return gondola.Auction{}, err
		}
	}
	return s.Platform.Ask(ctx, ask)
}

func (s *spoiled) Create(ctx context.Context, app gondola.AppName, req gondola.CreateRequest) (gondola.Machine, error) {
	s.creates.Add(1)
	if s.create != nil {
		return s.create(ctx, func() (gondola.Machine, error) { return s.Platform.Create(ctx, app, req) })
	}
	return s.Platform.Create(ctx, app, req)
}

func (s *spoiled) isDown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return gondola.Errorf(gondola.ErrUnavailable, "connection refused")
	}
	return nil
}

func (s *spoiled) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down && s.cut != nil {
		s.cut()
	}
}

func (s *spoiled) List(ctx context.Context, app gondola.AppName, f gondola.ListFilter) ([]gondola.Machine, error) {
	if err := s.isDown(); err != nil {
		return nil, err
	}
	return s.Platform.List(ctx, app, f)
}

func (s *spoiled) Watch(ctx context.Context, req gondola.WatchRequest) (<-chan gondola.Change, error) {
	if err := s.isDown(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	old := s.cut
	s.cut = func() {
		cancel()
		if old != nil {
			old()
		}
	}
	s.mu.Unlock()
	return s.Platform.Watch(ctx, req)
}

func (s *spoiled) SetServices(ctx context.Context, network string, services []gondola.VirtualService) error {
	if err := s.isDown(); err != nil {
		return err
	}
	return s.Platform.SetServices(ctx, network, services)
}

// fleet is a platform whose workers can be spoiled, by name.
type fleet struct {
	*gondolatest.Platform
	workers map[gondola.WorkerName]*spoiled
}

// newFleet has one worker in each region.
func newFleet(t *testing.T, deadline time.Duration, regions ...gondola.Region) *fleet {
	t.Helper()
	return newFleetOf(t, gondolatest.Options{Regions: regions, AskDeadline: deadline})
}

// newFleetOf has workers of 4 CPUs and 8 GB.
func newFleetOf(t *testing.T, o gondolatest.Options) *fleet {
	t.Helper()
	f := &fleet{workers: map[gondola.WorkerName]*spoiled{}}
	o.Total = gondola.Resources{CPUMillis: 4000, MemoryBytes: 8 << 30}
	o.Reach = func(w *gondolatest.Worker) gondola.Platform {
		f.workers[w.Name] = &spoiled{Platform: w.Worker}
		return f.workers[w.Name]
	}
	f.Platform = gondolatest.New(t, o)
	f.NewApp("shop")
	return f
}

// sized is a Machine of so many whole CPUs and GB, at rest.
func sized(cpus int, region string) gondola.CreateRequest {
	requests := &gondola.Resources{CPUMillis: 1000 * int64(cpus), MemoryBytes: int64(cpus) << 30}
	return gondola.CreateRequest{Region: region, Config: gondola.Config{Image: "test/app", Gondola: &gondola.ConfigExtension{Requests: requests}}}
}

func (f *fleet) place(t *testing.T, req gondola.CreateRequest) gondola.Machine {
	t.Helper()
	m, err := f.Market.Create(t.Context(), "shop", req)
	if err != nil {
		t.Fatalf("Create = %v", err)
	}
	return m
}

func TestCreate_FailsFastAndSaysWhatWouldHaveWorked(t *testing.T) {
	f := newFleet(t, 0, "gru", "gig")
	f.place(t, sized(3, "gru"))
	_, err := f.Market.Create(t.Context(), "shop", sized(2, "gru"))
	if want := "no worker in gru has 2 CPUs and 2048 MB free; gig has"; !errors.Is(err, gondola.ErrCapacity) || err.Error() != want {
		t.Errorf("Create = %v, want %q", err, want)
	}
	if r := gondola.Refusals(err); len(r) != 1 || r[0].Worker != "gru" {
		t.Errorf("refusals = %+v, want that of gru", r)
	}
	if n := f.workers["gig"].creates.Load(); n != 0 {
		t.Error("a region that was not named was tried")
	}
	if m := f.place(t, sized(2, "gru,gig")); m.Region != "gig" {
		t.Errorf("with gig as second choice it went to %s", m.Region)
	}
	_, err = f.Market.Create(t.Context(), "shop", sized(1, "nrt"))
	if !errors.Is(err, gondola.ErrNotFound) || !strings.Contains(err.Error(), "gru and gig") {
		t.Errorf("Create in an unknown region = %v", err)
	}
}

func TestCreate_DoesNotWaitForASilentWorker(t *testing.T) {
	f := newFleet(t, 300*time.Millisecond, "gru", "gig")
	f.workers["gru"].ask = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	if m := f.place(t, sized(1, "any")); m.Region != "gig" {
		t.Errorf("placed in %s, want gig: gru does not answer", m.Region)
	}
	_, err := f.Market.Create(t.Context(), "shop", sized(1, "gru"))
	r := gondola.Refusals(err)
	if !errors.Is(err, gondola.ErrCapacity) || len(r) != 1 || r[0].Reason != "did not answer within 300 ms" {
		t.Errorf("Create = %v, refusals %+v", err, r)
	}
}

func TestCreate_ARefusalMovesToTheNextBid(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	refuse := func(ctx context.Context, then func() (gondola.Machine, error)) (gondola.Machine, error) {
		return gondola.Machine{}, &gondola.Error{Kind: gondola.ErrCapacity, Message: "taken meanwhile", Refusals: []gondola.Refusal{{Worker: "gru", Region: "gru", Reason: "taken meanwhile"}}}
	}
	f.workers["gru"].create = refuse
	m := f.place(t, gondola.CreateRequest{Name: "web", Region: "gru,gig", Config: sized(1, "").Config})
	if m.Gondola.Worker != "gig" || f.workers["gru"].creates.Load() != 1 {
		t.Errorf("placed on %s, gru was tried %d times", m.Gondola.Worker, f.workers["gru"].creates.Load())
	}
	if got, err := f.Market.Get(t.Context(), m.Ref()); err != nil || got.ID != m.ID {
		t.Errorf("Get = %v, %v: the row did not move along", got.ID, err)
	}
	f.workers["gig"].create = refuse
	_, err := f.Market.Create(t.Context(), "shop", gondola.CreateRequest{Name: "db", Region: "gru,gig", Config: sized(1, "").Config})
	if !errors.Is(err, gondola.ErrCapacity) || len(gondola.Refusals(err)) != 2 {
		t.Errorf("Create that all refuse = %v, refusals %+v", err, gondola.Refusals(err))
	}
	f.workers["gig"].create = nil
	f.place(t, gondola.CreateRequest{Name: "db", Region: "gig", Config: sized(1, "").Config}) // its name is free
}

func TestCreate_SilenceNeverMovesAndTheNameFindsTheMachineAgain(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	gru := f.workers["gru"]
	gru.create = func(ctx context.Context, then func() (gondola.Machine, error)) (gondola.Machine, error) {
		then() // it happens, but nobody hears of it
		return gondola.Machine{}, gondola.Errorf(gondola.ErrUnavailable, "connection reset")
	}
	req := gondola.CreateRequest{Name: "web", Region: "gru,gig", Config: sized(1, "").Config}
	_, err := f.Market.Create(t.Context(), "shop", req)
	if !errors.Is(err, gondola.ErrUnavailable) || !strings.Contains(err.Error(), "ask again with the same name") {
		t.Errorf("unanswered Create = %v", err)
	}
	if f.workers["gig"].creates.Load() != 0 {
		t.Fatal("an unanswered Create was tried at another worker: two machines may exist")
	}
	gru.create = nil
	gru.ask = func(context.Context) error { return gondola.Errorf(gondola.ErrCapacity, "full by now") } // another would win an auction
	m := f.place(t, req)
	if got, err := f.Market.Get(t.Context(), m.Ref()); err != nil || got.ID != m.ID || got.Gondola.Worker != "gru" {
		t.Errorf("Get = %+v, %v", got, err)
	}
	all, err := f.Market.List(t.Context(), "shop", gondola.ListFilter{})
	if err != nil || len(all) != 1 || all[0].ID != m.ID {
		t.Errorf("List = %d machines, %v, want the one", len(all), err)
	}
}

func TestCreate_FindsAMachineThatTheIndexHasForgotten(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru")
	req := gondola.CreateRequest{Name: "web", Config: sized(1, "").Config}
	m := f.place(t, req)
	if err := f.Store.Forget(t.Context(), m.ID, "gru"); err != nil {
		t.Fatal(err)
	}
	again := f.place(t, req)
	if got, err := f.Market.Get(t.Context(), again.Ref()); again.ID != m.ID || err != nil || got.ID != m.ID {
		t.Errorf("Create again = %s, then Get = %s, %v, want %s", again.ID, got.ID, err, m.ID)
	}
}

func TestCreate_AtOnceByOneNameMakesOneMachine(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	req := gondola.CreateRequest{Name: "web", SkipLaunch: true, Config: sized(1, "").Config}
	ids := make([]gondola.MachineID, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			m, err := f.Market.Create(t.Context(), "shop", req)
			if err != nil {
				t.Errorf("Create = %v", err)
			}
			ids[i] = m.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one name made several machines: %v", ids)
		}
	}
}

// A create of a name waits for the one that is under way, whose worker is about to refuse and would then take it.
func TestCreate_WaitsForAnotherOfItsNameOrID(t *testing.T) {
	byID := &gondola.CreateExtension{ID: "4d7f7ad78a33f0"}
	for what, req := range map[string]gondola.CreateRequest{
		"another place":          {Region: "gru,gig", Name: "web"},
		"no other place":         {Region: "gru", Name: "web"},
		"an id":                  {Region: "gru,gig", Gondola: byID},
		"an id, no other place":  {Region: "gru", Gondola: byID},
		"an id and another name": {Region: "gru,gig", Name: "web", Gondola: byID},
		"a name alone":           {Region: "gru,gig", Name: "db", Gondola: byID},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFleet(t, 5*time.Second, "gru", "gig")
			req.SkipLaunch, req.Config = true, sized(1, "").Config
			other := req
			switch what {
			case "an id and another name":
				other.Name = "api"
			case "a name alone":
				other.Gondola = nil
			}
			f.workers["gru"].create = func(_ context.Context, then func() (gondola.Machine, error)) (gondola.Machine, error) {
				f.workers["gru"].create = nil // room comes free
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if m, err := f.Market.Create(ctx, "shop", other); !errors.Is(err, gondola.ErrDeadline) || !strings.Contains(err.Error(), "is being changed by another call") {
					t.Errorf("Create meanwhile = machine %s at %+v, %v; want it to wait, and no longer than its context", m.ID, m.Gondola, err)
				}
				return gondola.Machine{}, &gondola.Error{Kind: gondola.ErrCapacity, Message: "full", Refusals: []gondola.Refusal{{Worker: "gru", Region: "gru", Reason: "full"}}}
			}
			first, err := f.Market.Create(t.Context(), "shop", req)
			if refused := req.Region == "gru"; refused != errors.Is(err, gondola.ErrCapacity) || !refused && first.Region != "gig" {
				t.Fatalf("Create = machine in %q, %v", first.Region, err)
			}
			m := f.place(t, req)
			if err == nil && m.ID != first.ID {
				t.Errorf("Create again = %s, want %s", m.ID, first.ID)
			}
			n := 0
			for _, w := range f.Workers {
				all, err := w.List(t.Context(), "shop", gondola.ListFilter{})
				if n += len(all); err != nil {
					t.Error(err)
				}
			}
			if got, err := f.Market.Get(t.Context(), m.Ref()); n != 1 || err != nil || got.ID != m.ID {
				t.Errorf("there are %d machines, and Get = %s, %v; want one, %s", n, got.ID, err, m.ID)
			}
		})
	}
}

// The row of a create that went unanswered goes when its worker is read and does not have the Machine; here while it is asked again.
func TestCreate_WhoseRowGoesMeanwhileIsAskedOnceMore(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	req := gondola.CreateRequest{Name: "web", Region: "gru,gig", SkipLaunch: true, Config: sized(1, "").Config}
	f.workers["gru"].create = func(ctx context.Context, then func() (gondola.Machine, error)) (gondola.Machine, error) {
		e, err := f.Store.LookupName(ctx, "shop", "web")
		if err := errors.Join(err, f.Store.Remove(ctx, e.ID)); err != nil {
			t.Error(err)
		}
		return gondola.Machine{}, gondola.Errorf(gondola.ErrCapacity, "full")
	}
	if m, err := f.Market.Create(t.Context(), "shop", req); !errors.Is(err, gondola.ErrConflict) || f.workers["gig"].creates.Load() != 0 {
		t.Errorf("Create = %s, %v with %d creates in gig; want ErrConflict and none: it would have no row", m.ID, err, f.workers["gig"].creates.Load())
	}
	f.workers["gru"].create = nil
	m := f.place(t, req)
	if got, err := f.Market.Get(t.Context(), m.Ref()); err != nil || got.ID != m.ID {
		t.Errorf("Get = %s, %v, want %s", got.ID, err, m.ID)
	}
}

func TestCreate_NeverSellsMoreThanThereIs(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	var made atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			_, err := f.Market.Create(t.Context(), "shop", sized(1, "any"))
			if err == nil {
				made.Add(1)
			} else if !errors.Is(err, gondola.ErrCapacity) {
				t.Errorf("Create = %v", err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 8 {
		t.Errorf("%d machines of 1 CPU on 8 CPUs, want 8", made.Load())
	}
}

func TestList_ShowsMachinesOfAWorkerThatIsAway(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	away, here := f.place(t, sized(1, "gru")), f.place(t, sized(1, "gig"))
	if _, err := f.Market.Wait(t.Context(), away.Ref(), gondola.WaitRequest{Timeout: patience}); err != nil {
		t.Fatal(err)
	}
	f.workers["gru"].setDown(true)
	all, err := f.Market.List(t.Context(), "shop", gondola.ListFilter{})
	if err != nil || len(all) != 2 {
		t.Fatalf("List = %d machines, %v", len(all), err)
	}
	for _, m := range all {
		want := map[gondola.MachineID]string{away.ID: "unreachable", here.ID: "ok"}[m.ID]
		if m.HostStatus != want || m.Name == "" || m.Ref().App != "shop" {
			t.Errorf("%s has host_status %q, want %q: %+v", m.ID, m.HostStatus, want, m)
		}
	}
	all, err = f.Client.List(t.Context(), "shop", gondola.ListFilter{})
	for _, m := range all {
		if (m.IncompleteConfig != nil) != (m.ID == away.ID) || m.Config == nil {
			t.Errorf("over the wire %s (%s) has config %v, incomplete_config %v", m.ID, m.HostStatus, m.Config, m.IncompleteConfig)
		}
	}
	if err != nil || len(all) != 2 {
		t.Errorf("List of a client = %d machines, %v", len(all), err)
	}
}

func TestWatch_TellsWhenAWorkerIsLostAndSendsAllAnewWhenItIsBack(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	m := f.place(t, sized(1, "gru"))
	changes, err := f.Market.Watch(t.Context(), gondola.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	synced := map[gondola.WorkerName]bool{}
	next(t, changes, "both are synced", func(ch gondola.Change) bool {
		if ch.Synced {
			synced[ch.Worker] = true
		}
		return len(synced) == 2
	})
	f.workers["gru"].setDown(true)
	next(t, changes, "gru is lost", func(ch gondola.Change) bool { return ch.Lost && ch.Worker == "gru" })
	f.workers["gru"].setDown(false)
	again := false
	next(t, changes, "gru is synced again", func(ch gondola.Change) bool {
		again = again || ch.Machine != nil && ch.Machine.ID == m.ID
		return ch.Synced && ch.Worker == "gru"
	})
	if !again {
		t.Error("its machine was not sent anew")
	}
	f.AddWorker("fra", "fra")
	next(t, changes, "a new worker joins in", func(ch gondola.Change) bool { return ch.Synced && ch.Worker == "fra" })
}

func next(t *testing.T, changes <-chan gondola.Change, what string, ok func(gondola.Change) bool) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case ch, open := <-changes:
			if !open {
				t.Fatalf("the watch ended before %s", what)
			}
			if ok(ch) {
				return
			}
		case <-timer.C:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func TestSetServices_ReachAWorkerThatWasAway(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	f.workers["gru"].setDown(true)
	services := []gondola.VirtualService{{Name: "default/web"}}
	if err := f.Market.SetServices(t.Context(), "default", services); err != nil {
		t.Fatalf("SetServices with a worker away = %v", err)
	}
	if got := f.Workers[1].Host.Services("default"); len(got) != 1 {
		t.Errorf("gig has %v", got)
	}
	f.workers["gru"].setDown(false)
	changes, err := f.Market.Watch(t.Context(), gondola.WatchRequest{Offers: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = changes }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); len(f.Workers[0].Host.Services("default")) != 1; <-tick.C {
		if time.Since(begin) > patience {
			t.Fatal("the worker that was away did not get the services")
		}
	}
}

func TestDeleteApp_DestroysItsMachines(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	a, b := f.place(t, sized(1, "gru")), f.place(t, sized(1, "gig"))
	if err := f.Market.DeleteApp(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Market.App(t.Context(), "shop"); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("App = %v", err)
	}
	for i, m := range []gondola.Machine{a, b} {
		if ms, err := f.Workers[i].List(t.Context(), "", gondola.ListFilter{}); err != nil || len(ms) != 0 {
			t.Errorf("worker %s still has %d machines, %v (%s)", f.Workers[i].Name, len(ms), err, m.ID)
		}
	}
	if _, err := f.Market.Create(t.Context(), "shop", sized(1, "gru")); !errors.Is(err, gondola.ErrNotFound) || err.Error() != `Could not find App "shop"` {
		t.Errorf("Create in a deleted app = %v", err)
	}
}

func TestPlacements_FillRegionsInTheOrderOfPreference(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	f.place(t, sized(3, "gru"))
	one := &gondola.Guest{CPUKind: "performance", CPUs: 1, MemoryMB: 1024}
	got, err := f.Market.Placements(t.Context(), gondola.PlacementsRequest{Region: "gru,gig", Count: 3, Compute: one})
	if err != nil || len(got) != 2 || got[0] != (gondola.Placement{Region: "gru", Count: 1, Concurrency: 1}) || got[1].Region != "gig" || got[1].Count != 2 {
		t.Errorf("Placements of 3 = %+v, %v", got, err)
	}
	got, err = f.Market.Placements(t.Context(), gondola.PlacementsRequest{Compute: one})
	if err != nil || len(got) != 2 || got[0].Region != "gig" || got[0].Count != 4 || got[1].Count != 1 {
		t.Errorf("Placements = %+v, %v, want all that there is", got, err)
	}
	regions, err := f.Market.Regions(t.Context())
	if err != nil || len(regions) != 2 || regions[0].Code != "gru" || regions[0].Name != "Sao Paulo, Brazil" || regions[1].Name != "gig" {
		t.Errorf("Regions = %+v, %v", regions, err)
	}
}

func TestRun_RebuildsTheIndexFromItsWorkers(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru")
	m := f.place(t, gondola.CreateRequest{Name: "web", Config: sized(1, "").Config})
	if err := f.Store.Forget(t.Context(), m.ID, "gru"); err != nil { // the file was put back from an old copy
		t.Fatal(err)
	}
	if _, err := f.Market.Get(t.Context(), m.Ref()); !errors.Is(err, gondola.ErrNotFound) {
		t.Fatalf("Get = %v", err)
	}
	f.workers["gru"].setDown(true)
	f.workers["gru"].setDown(false)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; <-tick.C {
		if got, err := f.Market.Get(t.Context(), m.Ref()); err == nil && got.Name == "web" {
			return
		}
		if time.Since(begin) > patience {
			t.Fatal("the index did not learn of the machine again")
		}
	}
}
