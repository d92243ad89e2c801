package market_test

import (
	"context"
	"errors"
	"sync/atomic"
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

// A worker that is given what was set before, because it is back, ends with what is set meanwhile.
func TestSetPolicies_WhatWasSetLastIsLeft(t *testing.T) {
	f := newFleet(t, 5*time.Second, "gru")
	named := func(name string) gondola.PolicySet {
		return gondola.PolicySet{Policies: []gondola.Policy{{Name: name, Ingress: &gondola.PolicyRules{}}}}
	}
	gru, later := f.workers["gru"], make(chan error, 1)
	gru.setDown(true)
	if err := f.Market.SetPolicies(t.Context(), "default", "test", named("old")); err != nil {
		t.Fatal(err)
	}
	if err := f.Market.SetServices(t.Context(), "default", []gondola.VirtualService{{Name: "default/web"}}); err != nil {
		t.Fatal(err)
	}
	var begun atomic.Bool
	gru.police = func(context.Context) error {
		if begun.Swap(true) {
			return nil
		}
		set := make(chan error, 1) // it is being sent the old one
		go func() { set <- f.Market.SetPolicies(t.Context(), "default", "test", named("new")) }()
		select {
		case err := <-set:
			later <- err
		case <-time.After(100 * time.Millisecond): // it waits
			go func() { later <- <-set }()
		}
		return nil
	}
	gru.setDown(false)
	if err := <-later; err != nil {
		t.Errorf("SetPolicies = %v", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); len(f.Workers[0].Host.Services("default")) == 0; <-tick.C { // services come when all policies have come
		if time.Since(begin) > patience {
			t.Fatal("the worker that was away did not get the services")
		}
	}
	if has := f.Workers[0].Host.Policies("default", "test").Policies; len(has) != 1 || has[0].Name != "new" {
		t.Errorf("it has %+v, want the policy that was set last", has)
	}
}
