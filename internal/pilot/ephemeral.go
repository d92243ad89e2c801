package pilot

import (
	"context"
	"slices"

	"gondola"
	"gondola/internal/failpoint"
)

// accept lets containers be added from now on, which begin starts to supervise.
func (s *Supervisor) accept(begin func(*Container)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin = begin
}

// acceptUntilEnd goes on accepting until the Machine ends or ctx does.
func (s *Supervisor) acceptUntilEnd(ctx context.Context) {
	s.ledger.await(ctx.Done(), func() bool {
		s.ledger.mu.Lock()
		defer s.ledger.mu.Unlock()
		return s.stoppingLocked() || s.mainsDoneLocked()
	})
	s.mu.Lock()
	s.begin = nil
	s.mu.Unlock()
}

// containers are those of the Spec and those that were added since.
func (s *Supervisor) containers() (all []*Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containersLocked()
}

func (s *Supervisor) containersLocked() (all []*Container) {
	for i := range s.spec.Containers {
		all = append(all, &s.spec.Containers[i])
	}
	return append(all, s.added...)
}

// AddContainer implements API.
func (s *Supervisor) AddContainer(ctx context.Context, c Container) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if !isEphemeral(&c) || c.Name == "" {
		return gondola.Errorf(gondola.ErrInvalid, "container %q is not ephemeral: only such can be added to a machine that runs", c.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.containersLocked(), func(other *Container) bool { return other.Name == c.Name }) {
		return nil
	}
	if s.begin == nil {
		return gondola.Errorf(gondola.ErrPrecondition, "machine %s is not running", s.spec.Machine)
	}
	s.added = append(s.added, &c)
	s.ledger.commit(entry{Containers: []containerRecord{newRecord(&c, 0)}})
	failpoint.Hit("pilot.add.recorded")
	s.begin(&c)
	return nil
}
