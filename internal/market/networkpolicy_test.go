package market_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"gondola"
	"gondola/internal/market"
)

// TestNetworkPolicies_AreCarriedOutAndOutliveTheServer: workers get what is on record, also one that comes after a restart.
func TestNetworkPolicies_AreCarriedOutAndOutliveTheServer(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	f.workers["gig"].setDown(true)
	p, err := f.Market.PutNetworkPolicy(t.Context(), "shop", gondola.NetworkPolicy{Name: "web", Selector: gondola.NetworkSelector{Machines: []gondola.NetworkMachine{{ID: "4d7f7ad78a33f0"}}},
		Rules: []gondola.NetworkRule{{Action: "allow", Direction: "egress", Ports: []gondola.NetworkPort{{Protocol: "udp"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	has := func(worker int) []gondola.Policy {
		return f.Workers[worker].Host.Policies("default", "app:shop").Policies
	}
	if got := has(0); len(got) != 1 || got[0].Name != "shop/web" || got[0].Selector.App != "shop" || len(got[0].Selector.Machines) != 1 ||
		got[0].Ingress != nil || len(got[0].Egress.Allow) != 1 || got[0].Egress.Allow[0].Ports[0].Protocol != "udp" {
		t.Errorf("policies at gru = %+v", got)
	}

	f.workers["gig"].setDown(false)
	again := market.New(market.Config{Index: f.Store, Workers: []market.Worker{{Name: "gig", Region: "gig", Platform: f.workers["gig"]}}})
	go again.Run(t.Context())
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); len(has(1)) == 0; <-tick.C {
		if time.Since(begin) > patience {
			t.Fatal("the worker that was away did not get the policy")
		}
	}

	if err := f.Market.DeleteNetworkPolicy(t.Context(), "shop", p.ID); err != nil || len(has(0)) != 0 {
		t.Errorf("after DeleteNetworkPolicy (%v) gru has %+v", err, has(0))
	}
	if _, err := f.Market.PutNetworkPolicy(t.Context(), "shop", gondola.NetworkPolicy{Name: "all", Selector: gondola.NetworkSelector{All: true}}); err != nil {
		t.Fatal(err)
	}
	if err := f.Market.DeleteApp(t.Context(), "shop"); err != nil || len(has(0)) != 0 {
		t.Errorf("after DeleteApp (%v) gru has %+v", err, has(0))
	}
}

// policed puts a policy on record of shop, and in force at every worker.
func (f *fleet) policed(t *testing.T) gondola.NetworkPolicy {
	t.Helper()
	p, err := f.Market.PutNetworkPolicy(t.Context(), "shop", gondola.NetworkPolicy{Name: "all", Selector: gondola.NetworkSelector{All: true}})
	for i := range f.Workers {
		if err != nil || f.inForce(i) != 1 {
			t.Fatalf("PutNetworkPolicy = %v, and %s has %d", err, f.Workers[i].Name, f.inForce(i))
		}
	}
	return p
}

// inForce is how many policies of shop a worker has.
func (f *fleet) inForce(worker int) int {
	return len(f.Workers[worker].Host.Policies("default", "app:shop").Policies)
}

// restarted is another server over the same file, which reaches the workers anew.
func (f *fleet) restarted(t *testing.T) *market.Market {
	t.Helper()
	var ws []market.Worker
	for _, w := range f.Workers {
		ws = append(ws, market.Worker{Name: w.Name, Region: w.Region, Platform: &spoiled{Platform: w.Worker}})
	}
	again := market.New(market.Config{Index: f.Store, Workers: ws})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); again.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return again
}

// ends waits until no worker has a policy of shop.
func (f *fleet) ends(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i, begin := 0, time.Now(); i < len(f.Workers); <-tick.C {
		if f.inForce(i) == 0 {
			i++
		} else if time.Since(begin) > patience {
			t.Fatalf("the policy is still in force at %s", f.Workers[i].Name)
		}
	}
}

func TestDeleteNetworkPolicy_IsCarriedOutWhenItsCallerGoesAway(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru")
	p := f.policed(t)
	ctx, leave := context.WithCancel(t.Context())
	f.workers["gru"].police = func(ctx context.Context) error { leave(); return ctx.Err() }
	if err := f.Market.DeleteNetworkPolicy(ctx, "shop", p.ID); err != nil || f.inForce(0) != 0 {
		t.Errorf("DeleteNetworkPolicy = %v, and %d are in force", err, f.inForce(0))
	}
}

// A deletion that is on record and was not carried out, as a server leaves it that dies, is carried out at the next opportunity.
func TestDeleteNetworkPolicy_ThatWasCutShortIsCarriedOut(t *testing.T) {
	for what, opportunity := range map[string]func(*testing.T, *fleet, gondola.NetworkPolicy) error{
		"the server starts": func(t *testing.T, f *fleet, _ gondola.NetworkPolicy) error {
			f.restarted(t)
			return nil
		},
		"a worker comes back": func(_ *testing.T, f *fleet, _ gondola.NetworkPolicy) error {
			f.workers["gru"].setDown(true)
			f.workers["gru"].setDown(false)
			return nil
		},
		"it is deleted again": func(t *testing.T, f *fleet, p gondola.NetworkPolicy) error {
			if err := f.Market.DeleteNetworkPolicy(t.Context(), "shop", p.ID); !errors.Is(err, gondola.ErrNotFound) {
				return err
			}
			return nil
		},
		"its app is deleted": func(t *testing.T, f *fleet, _ gondola.NetworkPolicy) error {
			return f.Market.DeleteApp(t.Context(), "shop")
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFleet(t, 5*time.Second, "gru", "gig")
			p := f.policed(t)
			if err := f.Store.DeleteNetworkPolicy(t.Context(), "shop", p.ID); err != nil {
				t.Fatal(err)
			}
			if err := opportunity(t, f, p); err != nil {
				t.Fatal(err)
			}
			f.ends(t)
		})
	}
}

// A worker that is away while a policy, or its App, is deleted is told when it is back, by another server too.
func TestDeleteNetworkPolicy_ReachesAWorkerThatWasAway(t *testing.T) {
	for what, remove := range map[string]func(context.Context, *fleet, gondola.NetworkPolicy) error{
		"the policy": func(ctx context.Context, f *fleet, p gondola.NetworkPolicy) error {
			return f.Market.DeleteNetworkPolicy(ctx, "shop", p.ID)
		},
		"the app": func(ctx context.Context, f *fleet, _ gondola.NetworkPolicy) error {
			return f.Market.DeleteApp(ctx, "shop")
		},
		"the app, whose name another has now": func(ctx context.Context, f *fleet, _ gondola.NetworkPolicy) error {
			if err := f.Market.DeleteApp(ctx, "shop"); err != nil {
				return err
			}
			_, err := f.Market.CreateApp(ctx, gondola.NewApp{Name: "shop"})
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFleet(t, 5*time.Second, "gru", "gig")
			p := f.policed(t)
			f.workers["gig"].setDown(true)
			if err := remove(t.Context(), f, p); err != nil {
				t.Fatal(err)
			}
			if f.inForce(0) != 0 || f.inForce(1) != 1 {
				t.Fatalf("while gig is away %d are in force at gru and %d at gig", f.inForce(0), f.inForce(1))
			}
			f.restarted(t)
			f.ends(t)
		})
	}
}

func TestPutNetworkPolicy_WaitsForTheDeletionOfItsApp(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru")
	p := f.policed(t)
	f.workers["gru"].police = func(context.Context) error { // the App's policies are being dropped
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := f.Market.PutNetworkPolicy(ctx, "shop", p); !errors.Is(err, gondola.ErrDeadline) {
			t.Errorf("PutNetworkPolicy meanwhile = %v, want it to wait, and no longer than its context", err)
		}
		return nil
	}
	if err := f.Market.DeleteApp(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Market.PutNetworkPolicy(t.Context(), "shop", p); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("PutNetworkPolicy after that = %v, want ErrNotFound", err)
	}
}
