package worker

import (
	"context"
	"maps"

	"gondola"
)

// SetPolicies programs the policies of a network on this host.
func (w *Worker) SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error {
	if err := set.Validate(); err != nil {
		return err
	}
	return w.cfg.Host.SetPolicies(ctx, network, owner, set)
}

// subject is what policies may select the Machine by.
func (m *machine) subject() gondola.PolicySubject { return subjectOf(m.rec) }

func subjectOf(r record) gondola.PolicySubject {
	s := gondola.PolicySubject{ID: r.ID, App: r.App}
	if r.Config != nil {
		s.Metadata = r.Config.Metadata
	}
	return s
}

// describe tells the host what has changed in that. The record stands even where the host cannot do it now: it does with its next change.
func (m *machine) describe(ctx context.Context, next record) {
	now := subjectOf(next)
	if !next.DestroyedAt.IsZero() || maps.Equal(now.Metadata, m.subject().Metadata) {
		return
	}
	if err := m.w.cfg.Host.Describe(ctx, now); err != nil {
		m.log.Error("policies cannot follow the machine's metadata", "err", err)
	}
}
