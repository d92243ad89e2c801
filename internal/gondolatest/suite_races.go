package gondolatest

import (
	"errors"
	"sync"

	"gondola"
)

// race does a call several times at once and returns how it went: how many times well. All others must fail with kind.
func (s *suite) race(kind error, what string, call func(n int) error) (won int) {
	s.Helper()
	const racers = 8
	errs := make([]error, racers)
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for n := range racers {
		wg.Go(func() {
			<-begin
			errs[n] = call(n)
		})
	}
	close(begin)
	wg.Wait()
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, kind):
			s.Errorf("%s: a loser gets %v, want %q", what, err, kind)
		}
	}
	if won != 1 {
		s.Errorf("%s: %d of %d won, want one", what, won, racers)
	}
	return won
}

// raceForLease checks that of many who want a lease at once one gets it.
func (s *suite) raceForLease() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	s.race(gondola.ErrConflict, "AcquireLease", func(int) error {
		_, err := s.p.AcquireLease(s.Context(), m.Ref(), gondola.LeaseRequest{TTL: 60})
		return err
	})
}

// raceForVersion checks that of many who update the same version one does.
func (s *suite) raceForVersion() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	s.race(gondola.ErrConflict, "Update of a version", func(n int) error {
		c := config()
		c.Env = map[string]string{"N": string(rune('a' + n))}
		_, err := s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: c, SkipLaunch: true}, CurrentVersion: m.Version})
		return err
	})
	s.eventually("the update is done", func() bool { return !s.get(m.Ref()).State.Transient() })
	if versions, err := s.p.Versions(s.Context(), m.Ref()); err != nil || len(versions) != 2 {
		s.Errorf("Versions after the race = %+v, %v; want two", versions, err)
	}
}

// raceForVolume checks that of many Machines that mount a volume at once one gets it.
func (s *suite) raceForVolume() {
	v := s.volume(gondola.CreateVolumeRequest{Name: "data", SizeGB: 1})
	s.race(gondola.ErrPrecondition, "Create with a volume", func(int) error {
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: mounting(v), SkipLaunch: true})
		return err
	})
	if all, err := s.p.List(s.Context(), suiteApp, gondola.ListFilter{}); err != nil || len(all) != 1 {
		s.Errorf("List after the race has %d machines, %v; want the winner's", len(all), err)
	}
}

// raceForCPU checks that of many Machines that want the last CPUs one gets them.
func (s *suite) raceForCPU() {
	c := config()
	c.Gondola = &gondola.ConfigExtension{Requests: &gondola.Resources{CPUMillis: 5000, MemoryBytes: 1 << 30}}
	s.race(gondola.ErrCapacity, "Create with the last CPUs", func(int) error {
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c})
		return err
	})
	if all, err := s.p.List(s.Context(), suiteApp, gondola.ListFilter{}); err != nil || len(all) != 1 {
		s.Errorf("List after the race has %d machines, %v; want the winner's", len(all), err)
	}
}
