package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// An ephemeral container is recorded in the Config first. Whatever the pilot that runs does not know of them is then added to it, by the job
// below: image, Spec on record, pilot. Each step done again is harmless.

// addition is what is known of an ephemeral container that the pilot does not have yet.
type addition struct {
	state gondola.ContainerState
	tries int
	next  time.Time // when to try again
}

// AddContainer records an ephemeral container of a Machine that runs.
func (w *Worker) AddContainer(ctx context.Context, ref gondola.Ref, req gondola.AddContainerRequest) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	k := ephemeral(req.Container)
	return m.do(ctx, func(ctx context.Context) error {
		config, err := m.withEphemeral(k)
		if err != nil || config == nil {
			return err
		}
		change := func(r *record) { r.Config = config }
		if req.Payload == nil {
			return m.commit(ctx, change)
		}
		m.payloads++
		_, err = m.keep(ctx, func(k *kept) { k.Payload = *req.Payload }, change)
		return err
	})
}

// ephemeral is the container with what every ephemeral one has.
func ephemeral(k gondola.Container) gondola.Container {
	var x gondola.ContainerExtension
	if k.Gondola != nil {
		x = *k.Gondola
	}
	x.Ephemeral, x.Init, x.Sidecar = true, false, false
	k.Gondola, k.DependsOn, k.Healthchecks, k.Restart = &x, nil, nil, &gondola.RestartPolicy{Policy: gondola.RestartNo}
	return k
}

// withEphemeral returns the Machine's Config with k; nil where it has k already.
func (m *machine) withEphemeral(k gondola.Container) (*gondola.Config, error) {
	if m.rec.State != gondola.Starting && m.rec.State != gondola.Started {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "machine %s is not running: it is %s", m.id, m.rec.State)
	}
	config := *m.rec.Config
	if len(config.Containers) == 0 {
		return nil, gondola.Errorf(gondola.ErrUnsupported, "machine %s has no config.containers, so that none can be added: use exec", m.id)
	}
	if i := slices.IndexFunc(config.Containers, func(c gondola.Container) bool { return c.Name == k.Name }); i >= 0 {
		a, err1 := json.Marshal(config.Containers[i])
		b, err2 := json.Marshal(k)
		if err1 == nil && err2 == nil && bytes.Equal(a, b) {
			return nil, nil
		}
		return nil, gondola.Errorf(gondola.ErrConflict, "machine %s has another container called %q: choose another name", m.id, k.Name)
	}
	if t := k.Gondola.Target; t != "" && !slices.ContainsFunc(config.Containers, func(c gondola.Container) bool { return c.Name == t }) {
		return nil, gondola.Errorf(gondola.ErrInvalid, "target %q: machine %s has no such container", t, m.id)
	}
	config.Containers = append(slices.Clone(config.Containers), k)
	return &config, m.w.validate(&config, m.runs)
}

// lasting is the Config without the ephemeral containers, for the next run.
func lasting(c *gondola.Config) *gondola.Config {
	if !slices.ContainsFunc(c.Containers, func(k gondola.Container) bool { return k.IsEphemeral() }) {
		return c
	}
	out := *c
	out.Containers = c.Lasting()
	return &out
}

// unknown is an ephemeral container which the pilot does not have and which is due, nil if there is none; next is when one will be due.
func (m *machine) unknown() (due *gondola.Container, next time.Time) {
	if m.conn == nil || !m.conn.heard || m.status.Phase != pilot.Running || m.rec.Spec == nil {
		return nil, time.Time{}
	}
	for i := range m.rec.Config.Containers {
		k := &m.rec.Config.Containers[i]
		if !k.IsEphemeral() || slices.ContainsFunc(m.status.Containers, func(c gondola.ContainerStatus) bool { return c.Name == k.Name }) {
			continue
		}
		at := m.additions[k.Name].next
		if !time.Now().Before(at) {
			return k, time.Time{}
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return nil, next
}

// add begins the job that brings an ephemeral container into the sandbox.
func (m *machine) add(ctx context.Context, k gondola.Container) {
	rec, api, tries := m.rec, m.conn.api, m.additions[k.Name].tries
	m.begin(ctx, "add", func(ctx context.Context) func(context.Context) {
		err := m.addTo(ctx, rec, api, k, tries+1)
		return func(ctx context.Context) {
			m.w.cfg.Host.Pins().release(m.id)
			if err == nil || ctx.Err() != nil {
				return // the pilot tells of it
			}
			a := m.additions[k.Name]
			a.tries = tries + 1
			a.next = time.Now().Add(m.w.cfg.PullBackoff.Wait(a.tries))
			if a.state.Message == "" {
				a.state = gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "CreateContainerError", Message: err.Error()}
				m.note(gondola.Note{Warning: true, Reason: "Failed", Message: "Error: " + err.Error(), Container: k.Name})
			}
			m.setAddition(k.Name, a)
			m.log.Warn("an ephemeral container cannot be added; tried again", "container", k.Name, "at", a.next, "err", err)
		}
	})
}

func (m *machine) setAddition(name string, a addition) {
	all := map[string]addition{}
	for n, old := range m.additions {
		all[n] = old
	}
	all[name] = a
	m.additions = all
	m.show()
}

// addTo pulls the image, records the Spec with the container and hands it to the pilot.
func (m *machine) addTo(ctx context.Context, rec record, api pilot.API, k gondola.Container, try int) error {
	payload, err := m.w.payload(ctx, rec.ID, rec.Config)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rec.Spec.Containers, func(c pilot.Container) bool { return c.Name == k.Name })
	var merged pilot.Container
	if i >= 0 { // recorded, but the pilot has not heard of it
		merged = rec.Spec.Containers[i]
		if err := pilot.WriteSpec(*rec.Spec); err != nil {
			return err
		}
	} else if merged, err = m.mergeAdded(ctx, rec, k, try); err != nil {
		return err
	}
	failpoint.Hit("worker.add.recorded")
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if payload != nil {
		if err := api.PutPayload(ctx, *payload); err != nil {
			return fmt.Errorf("hand over the payload: %w", err)
		}
	}
	err = api.AddContainer(ctx, merged)
	failpoint.Hit("worker.add.given")
	return err
}

// mergeAdded pulls the images and records the container in the Spec.
func (m *machine) mergeAdded(ctx context.Context, rec record, k gondola.Container, try int) (pilot.Container, error) {
	p := &puller{host: m.w.cfg.Host, pins: m.w.cfg.Host.Pins(), try: try, credentials: m.w.credentials(m.id, rec.Config)}
	p.tell = func(_ []string, waiting *gondola.ContainerState, notes ...gondola.Note) {
		m.do(ctx, func(context.Context) error {
			a := m.additions[k.Name]
			a.state = gondola.ContainerState{}
			if waiting != nil {
				a.state = *waiting
			}
			for _, n := range notes {
				n.Container = k.Name
				m.note(n)
			}
			m.setAddition(k.Name, a)
			return nil
		})
	}
	pulled, err := p.all(ctx, rec.ID, []gondola.Container{k}, nil)
	if err != nil {
		return pilot.Container{}, err
	}
	merged, err := mergeContainer(specInput{machine: rec.ID, app: rec.App, version: rec.Version, region: m.w.cfg.Region, config: rec.Config,
		images: pulled}, withVolumes(rec.Config, k), rec.Spec.Hostname)
	if err != nil {
		return merged, err
	}
	return merged, m.do(ctx, func(ctx context.Context) error {
		if m.rec.Spec == nil || m.rec.Version != rec.Version || m.rec.State != gondola.Started && m.rec.State != gondola.Starting {
			return context.Canceled
		}
		spec := *m.rec.Spec
		spec.Containers = append(slices.Clone(spec.Containers), merged)
		err := m.commit(ctx, func(r *record) {
			r.Spec = &spec
			for _, digest := range pulled.digests() {
				if !slices.Contains(r.Digests, digest) {
					r.Digests = append(slices.Clone(r.Digests), digest)
				}
			}
		})
		if err != nil {
			return err
		}
		return pilot.WriteSpec(spec) // from there other workers of the host know which images are used
	})
}

// shownAdditions is how the ephemeral containers that the pilot does not know look.
func (m *machine) shownAdditions(known []gondola.ContainerStatus) (out []gondola.ContainerStatus) {
	for _, k := range m.rec.Config.Containers {
		if !k.IsEphemeral() || slices.ContainsFunc(known, func(c gondola.ContainerStatus) bool { return c.Name == k.Name }) {
			continue
		}
		s := m.additions[k.Name].state
		if s.Kind == "" {
			s = gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "ContainerCreating"}
		}
		out = append(out, gondola.ContainerStatus{Name: k.Name, Image: k.Image, State: s, Ephemeral: true})
	}
	return out
}
