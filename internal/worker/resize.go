package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// A new size is recorded in Config and Spec first, together with what the Machine holds for it. While the record says Resized, what the pilot
// tells is compared with the Spec: it is told the size until that is in effect, and only then does the Machine hold less. Each step done
// again is harmless.

// resizing is what is known of a Resize on its way.
type resizing struct {
	err   string
	tries int
	next  time.Time // when to tell the pilot, again
}

// Resize implements gondola.Sizes.
func (w *Worker) Resize(ctx context.Context, ref gondola.Ref, req gondola.ResizeRequest) (gondola.Machine, error) {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return gondola.Machine{}, err
	}
	return answer(ctx, m.change, func(ctx context.Context) (gondola.Machine, error) {
		if err := m.resizeTo(ctx, req); err != nil {
			return gondola.Machine{}, err
		}
		return *w.hub.view(m.id), nil
	})
}

func (m *machine) resizeTo(ctx context.Context, req gondola.ResizeRequest) error {
	switch m.rec.State {
	case gondola.Created, gondola.Starting, gondola.Started, gondola.Stopped, gondola.Failed:
	default:
		return gondola.Errorf(gondola.ErrPrecondition, "machine %s cannot be resized: it is %s", m.id, m.rec.State)
	}
	config, err := m.rec.Config.Resized(req)
	if err == nil {
		err = m.w.validate(config, m.runs)
	}
	if err != nil {
		return err
	}
	holds := m.rec.Allocated
	if holds != (gondola.Resources{}) {
		want, _ := config.Requests()
		if m.rec.Step == stepRun { // until less is in effect it may take as much as before
			holds = gondola.Resources{CPUMillis: max(holds.CPUMillis, want.CPUMillis), MemoryBytes: max(holds.MemoryBytes, want.MemoryBytes)}
		} else {
			holds = want
		}
		if free, ok := m.w.ledger.take(m.id, holds); !ok {
			return refused(gondola.Refusal{Worker: m.w.cfg.Name, Region: m.w.cfg.Region, Free: free, Capacity: m.w.cfg.Capacity,
				Reason: fmt.Sprintf("%s wanted, %s free of %s", want, free, m.w.cfg.Capacity)})
		}
	}
	m.interrupt("resize")
	m.resizing = resizing{}
	err = m.commit(ctx, func(r *record) {
		r.Config, r.Allocated = config, holds
		if r.Step == stepRun && r.Spec != nil {
			r.Spec, r.Resized = m.w.sizedSpec(r.Spec, config), true
		}
	})
	return err
}

// sizedSpec is the Spec with the amounts of a Config, for the pilot and for the next sandbox.
func (w *Worker) sizedSpec(s *pilot.Spec, c *gondola.Config) *pilot.Spec {
	out := *s
	out.Requests, out.Limits = c.Requests()
	out.OOMScore = oomScore(out.Requests, out.Limits, w.cfg.Capacity.MemoryBytes)
	out.Containers = slices.Clone(s.Containers)
	for i := range out.Containers {
		k := &out.Containers[i].Config
		at := slices.IndexFunc(c.Containers, func(k2 gondola.Container) bool { return k2.Name == k.Name })
		if at < 0 || c.Containers[at].Gondola == nil || c.Containers[at].Size() == k.Size() {
			continue
		}
		var x gondola.ContainerExtension
		if k.Gondola != nil {
			x = *k.Gondola
		}
		x.Requests, x.Limits = c.Containers[at].Gondola.Requests, c.Containers[at].Gondola.Limits
		k.Gondola = &x
	}
	return &out
}

// stepResize does the next thing for a Resize on record; again says that there may be more to do.
func (m *machine) stepResize(ctx context.Context) (again bool, err error) {
	if m.conn == nil || !m.conn.heard || m.status.Phase != pilot.Running || m.rec.Spec == nil {
		return false, nil
	}
	if inEffect(m.rec.Spec, m.status) {
		want, _ := m.rec.Config.Requests()
		m.resizing = resizing{}
		return true, m.commit(ctx, func(r *record) { r.Resized, r.Allocated = false, want })
	}
	if time.Now().Before(m.resizing.next) {
		return false, nil
	}
	api, size := m.conn.api, m.rec.Spec.Size()
	m.begin(ctx, "resize", func(ctx context.Context) func(context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := api.Resize(ctx, size)
		return func(context.Context) {
			if errors.Is(err, context.Canceled) {
				return // for another size
			}
			said := ""
			if err != nil {
				m.log.Warn("the machine cannot be resized; tried again", "err", err)
				said = err.Error()
			}
			m.resizing.tries++ // it may take a restart of a container to be in effect: what was lost meanwhile is told again
			m.resizing.next = time.Now().Add(gondola.Backoff{First: time.Second, Max: 30 * time.Second}.Wait(m.resizing.tries))
			if said != m.resizing.err {
				m.resizing.err = said
				m.show()
			}
		}
	})
	return false, nil
}

// inEffect says whether what a pilot tells has the sizes of the Spec. A container that does not run has them from its next run, which is
// waited for where it is due now.
func inEffect(s *pilot.Spec, st *pilot.Status) bool {
	want := s.Size()
	if st.Size == nil || *st.Size != want.Size {
		return false
	}
	for _, c := range st.Containers {
		size, ok := want.Containers[c.Name]
		runs := c.State.Kind == gondola.ContainerRunning || c.State.Reason == "ContainerCreating" && c.Size != nil
		if ok && !c.Ephemeral && runs && (c.Size == nil || *c.Size != size) {
			return false
		}
	}
	return true
}
