package gondolatest

import (
	"context"
	"slices"
	"time"

	"gondola"
)

// leases checks gondola.Leases: one holder at a time, whom alone a Machine obeys.
func (s *suite) leases() {
	m := s.started(config())
	_, err := s.p.Lease(s.Context(), m.Ref())
	s.wants(err, gondola.ErrNotFound, "Lease of a machine that nobody leased")
	begin := time.Now().Unix()
	lease, err := s.p.AcquireLease(s.Context(), m.Ref(), gondola.LeaseRequest{TTL: 60, Description: "deploy"})
	s.no(err, "AcquireLease")
	if lease.Nonce == "" || lease.Owner == "" || lease.Description != "deploy" || lease.Version != m.Version || lease.ExpiresAt < begin+60 || lease.ExpiresAt > time.Now().Unix()+60 {
		s.Errorf("AcquireLease = %+v, want one that ends in 60 s", lease)
	}
	if seen, err := s.p.Lease(s.Context(), m.Ref()); err != nil || seen != lease {
		s.Errorf("Lease = %+v, %v; want %+v", seen, err, lease)
	}
	_, err = s.p.AcquireLease(s.Context(), m.Ref(), gondola.LeaseRequest{})
	s.wants(err, gondola.ErrConflict, "AcquireLease of what somebody holds")

	s.keepsOut(s.Context(), m, "without the nonce")
	s.keepsOut(gondola.WithLease(s.Context(), "0123456789ab"), m, "with another nonce")
	s.no(s.p.SetMetadata(s.Context(), m.Ref(), "", map[string]*string{"k": new("v")}), "SetMetadata while somebody holds a lease")
	if got := s.get(m.Ref()); got.State != gondola.Started || got.Version != m.Version || got.Cordoned {
		s.Errorf("the machine is %s, version %s, cordoned %t; want it as it was", got.State, got.Version, got.Cordoned)
	}

	holder := gondola.WithLease(s.Context(), lease.Nonce)
	again, err := s.p.AcquireLease(holder, m.Ref(), gondola.LeaseRequest{TTL: 600})
	if err != nil || again.Nonce != lease.Nonce || again.Description != "deploy" || again.ExpiresAt < lease.ExpiresAt+500 {
		s.Errorf("refreshed = %+v, %v; want the nonce %s and 600 s", again, err, lease.Nonce)
	}
	s.no(s.p.Stop(holder, m.Ref(), gondola.StopRequest{}), "Stop by the holder")
	s.await(m.Ref(), gondola.Stopped)

	s.wants(s.p.ReleaseLease(s.Context(), m.Ref()), gondola.ErrInvalid, "ReleaseLease of no nonce")
	s.wants(s.p.ReleaseLease(gondola.WithLease(s.Context(), "0123456789ab"), m.Ref()), gondola.ErrConflict, "ReleaseLease of another's")
	s.no(s.p.ReleaseLease(holder, m.Ref()), "ReleaseLease")
	_, err = s.p.Start(holder, m.Ref())
	s.wants(err, gondola.ErrConflict, "Start with a nonce that was given back")
	_, err = s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start without a lease")
}

// keepsOut checks that nobody with ctx changes a leased Machine.
func (s *suite) keepsOut(ctx context.Context, m gondola.Machine, how string) {
	s.Helper()
	_, err := s.p.Start(ctx, m.Ref())
	s.wants(err, gondola.ErrConflict, "Start "+how)
	_, err = s.p.Update(ctx, m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: config()}})
	s.wants(err, gondola.ErrConflict, "Update "+how)
	_, err = s.p.Resize(ctx, m.Ref(), gondola.ResizeRequest{})
	s.wants(err, gondola.ErrConflict, "Resize "+how)
	s.wants(s.p.Stop(ctx, m.Ref(), gondola.StopRequest{}), gondola.ErrConflict, "Stop "+how)
	s.wants(s.p.Restart(ctx, m.Ref(), gondola.RestartRequest{}), gondola.ErrConflict, "Restart "+how)
	s.wants(s.p.Destroy(ctx, m.Ref(), true), gondola.ErrConflict, "Destroy "+how)
	s.wants(s.p.Cordon(ctx, m.Ref()), gondola.ErrConflict, "Cordon "+how)
}

// leaseEnds checks what time does to a Lease.
func (s *suite) leaseEnds() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	first, err := s.p.AcquireLease(s.Context(), m.Ref(), gondola.LeaseRequest{TTL: 1})
	s.no(err, "AcquireLease")
	s.eventually("the lease has run out", func() bool {
		_, err := s.p.Lease(s.Context(), m.Ref())
		return err != nil
	})
	holder := gondola.WithLease(s.Context(), first.Nonce)
	if again, err := s.p.AcquireLease(holder, m.Ref(), gondola.LeaseRequest{TTL: 1}); err != nil || again.Nonce != first.Nonce {
		s.Errorf("refreshing a lease that nobody else took = %+v, %v", again, err)
	}
	s.eventually("another can have it", func() bool {
		_, err := s.p.AcquireLease(s.Context(), m.Ref(), gondola.LeaseRequest{TTL: 60})
		return err == nil
	})
	_, err = s.p.AcquireLease(holder, m.Ref(), gondola.LeaseRequest{})
	s.wants(err, gondola.ErrConflict, "refreshing what another took")
	for _, ttl := range []int{-1, gondola.MaxLeaseTTL + 1} {
		_, err = s.p.AcquireLease(s.Context(), m.Ref(), gondola.LeaseRequest{TTL: ttl})
		s.wants(err, gondola.ErrInvalid, "AcquireLease for too long or too short")
	}
}

// leasedFromBirth checks CreateRequest.LeaseTTL, and that lists tell of leases but never nonces.
func (s *suite) leasedFromBirth() {
	req := gondola.CreateRequest{Name: "leased", Config: config(), SkipLaunch: true, LeaseTTL: 60}
	m := s.create(req)
	if m.Nonce == "" {
		s.Fatal("Create with lease_ttl tells no nonce")
	}
	if again := s.create(req); again.ID != m.ID || again.Nonce != m.Nonce {
		s.Errorf("asking again = %s with the nonce %q, want %s with %q", again.ID, again.Nonce, m.ID, m.Nonce)
	}
	s.wants(s.p.Destroy(s.Context(), m.Ref(), true), gondola.ErrConflict, "Destroy by another")
	if got := s.get(m.Ref()); got.Nonce != "" || got.Lease != nil {
		s.Errorf("Get tells nonce %q and lease %+v", got.Nonce, got.Lease)
	}
	all, err := s.p.List(s.Context(), suiteApp, gondola.ListFilter{IncludeLeases: true})
	if err != nil || len(all) != 1 || all[0].Lease == nil || all[0].Lease.Owner == "" || all[0].Lease.Nonce != "" || all[0].Nonce != "" {
		s.Errorf("List with leases = %+v, %v", all, err)
	}
	if apps, ok := s.p.(gondola.Apps); ok {
		s.no(apps.DeleteApp(s.Context(), suiteApp), "DeleteApp with a leased machine")
		return
	}
	s.no(s.p.Destroy(gondola.WithLease(s.Context(), m.Nonce), m.Ref(), true), "Destroy by the holder")
}

// cordon checks that a Machine says whether it is cordoned, through everything that happens to it.
func (s *suite) cordon() {
	if m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true, SkipServiceRegistration: true}); !m.Cordoned {
		s.Error("a machine created with skip_service_registration is not cordoned")
	}
	m := s.started(config())
	for range 2 {
		s.no(s.p.Cordon(s.Context(), m.Ref()), "Cordon")
		if got := s.get(m.Ref()); !got.Cordoned || got.Version != m.Version || got.State != gondola.Started {
			s.Errorf("cordoned: %+v", got)
		}
	}
	s.no(s.p.Restart(s.Context(), m.Ref(), gondola.RestartRequest{ForceStop: true}), "Restart")
	if m = s.await(m.Ref(), gondola.Started); !m.Cordoned {
		s.Error("a restart forgot that the machine is cordoned")
	}
	s.no(s.p.Uncordon(s.Context(), m.Ref()), "Uncordon")
	if s.get(m.Ref()).Cordoned {
		s.Error("the machine is cordoned after Uncordon")
	}
}

// versions checks that every Config is kept, newest first.
func (s *suite) versions() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	want := []gondola.Version{m.Version}
	for _, v := range []string{"1", "2"} {
		c := config()
		c.Env = map[string]string{"N": v}
		m, err := s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: c, SkipLaunch: true}})
		s.no(err, "Update")
		want = append([]gondola.Version{m.Version}, want...)
		s.eventually("the update is done", func() bool { return !s.get(m.Ref()).State.Transient() })
	}
	got, err := s.p.Versions(s.Context(), m.Ref())
	s.no(err, "Versions")
	var ids []gondola.Version
	for _, v := range got {
		ids = append(ids, v.Version)
	}
	if !slices.Equal(ids, want) || got[0].Config.Env["N"] != "2" || got[1].Config.Env["N"] != "1" || got[2].Config.Env["N"] != "" {
		s.Errorf("Versions = %+v, want %v with the config of each", got, want)
	}
}
