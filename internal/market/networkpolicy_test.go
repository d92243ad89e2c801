package market_test

import (
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
