package market_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"gondola"
)

func (s *spoiled) SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error {
	if err := s.isDown(); err != nil {
		return err
	}
	if s.police != nil {
		if err := s.police(ctx); err != nil {
			return err
		}
	}
	return s.Platform.SetPolicies(ctx, network, owner, set)
}

func TestSetPolicies_ReachAWorkerThatWasAway(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru", "gig")
	f.workers["gru"].setDown(true)
	set := gondola.PolicySet{Policies: []gondola.Policy{{Name: "default/deny", Ingress: &gondola.PolicyRules{}}}}
	if err := f.Market.SetPolicies(t.Context(), "default", "test", set); err != nil {
		t.Fatalf("SetPolicies with a worker away = %v", err)
	}
	has := func(worker int) bool { return len(f.Workers[worker].Host.Policies("default", "test").Policies) == 1 }
	if !has(1) {
		t.Error("gig does not have the policy")
	}
	wrong := gondola.PolicySet{Policies: []gondola.Policy{{Ingress: &gondola.PolicyRules{Allow: []gondola.PolicyRule{{Peers: []gondola.PolicyPeer{{Group: "none"}}}}}}}}
	if err := f.Market.SetPolicies(t.Context(), "default", "test", wrong); !errors.Is(err, gondola.ErrInvalid) || !has(1) {
		t.Errorf("SetPolicies with a group that is not there = %v, want ErrInvalid and the policy kept", err)
	}
	f.workers["gru"].setDown(false)
	if _, err := f.Market.Watch(t.Context(), gondola.WatchRequest{Offers: true}); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); !has(0); <-tick.C {
		if time.Since(begin) > patience {
			t.Fatal("the worker that was away did not get the policies")
		}
	}
}
