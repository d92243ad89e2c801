package worker

import (
	"context"
	"errors"
	"maps"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// Start starts a Machine that is created, stopped or failed, and makes one that is suspended run on: it takes its capacity again, or
// ErrCapacity. One that runs or starts is left alone.
func (w *Worker) Start(ctx context.Context, ref gondola.Ref) (gondola.StartResult, error) {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return gondola.StartResult{}, err
	}
	return answer(ctx, m.change, func(ctx context.Context) (gondola.StartResult, error) {
		before := gondola.StartResult{PreviousState: m.rec.State}
		if m.rec.State == gondola.Started || m.rec.State == gondola.Starting {
			return before, nil
		}
		if !gondola.CanMove(m.rec.State, gondola.Starting) || m.rec.State.Transient() {
			return before, gondola.Errorf(gondola.ErrPrecondition, "unable to start machine from current state: '%s'", m.rec.State)
		}
		if names, _ := m.rec.Config.WantedSecrets(); len(names) > 0 {
			k, err := w.keptOf(ctx, m.id)
			if err == nil {
				err = k.App.Check(m.app, m.rec.Config)
			}
			if err != nil {
				return before, err
			}
		}
		if full := w.diskFull(); full != "" {
			return before, refused(gondola.Refusal{Worker: w.cfg.Name, Region: w.cfg.Region, Reason: full, Capacity: w.cfg.Capacity})
		}
		want, _ := m.rec.Config.Requests()
		if err := m.take(want); err != nil {
			return before, err
		}
		m.interrupt() // no pause of before is this start's
		return before, m.commit(ctx, func(r *record) {
			r.State, r.Target, r.Allocated, r.Final, r.Reason, r.Message = gondola.Starting, gondola.Started, want, nil, "", ""
		}, event{kind: "start", source: "user"})
	})
}

// take commits capacity for a Machine that is there already; the error's words are Fly.io's, by which flyctl knows to look elsewhere.
func (m *machine) take(want gondola.Resources) error {
	free, ok := m.w.ledger.take(m.id, want)
	if ok {
		m.w.offerChanged()
		return nil
	}
	what := "CPUs"
	if want.CPUMillis <= free.CPUMillis {
		what = "memory"
	}
	return gondola.Errorf(gondola.ErrCapacity, "could not reserve resource for machine: insufficient %s available to fulfill request", what)
}

// Stop asks a Machine to end. One that is stopped is left alone; one that is stopping is asked again, with the new signal and timeout.
func (w *Worker) Stop(ctx context.Context, ref gondola.Ref, req gondola.StopRequest) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	return m.change(ctx, func(ctx context.Context) error {
		switch {
		case m.rec.State == gondola.Stopped:
			return nil
		case m.rec.State == gondola.Stopping:
			m.asked, m.killAt = false, time.Time{}
			return m.commit(ctx, func(r *record) { r.Stop = &req })
		case !gondola.CanMove(m.rec.State, gondola.Stopping):
			return gondola.Errorf(gondola.ErrPrecondition, "unable to stop machine from current state: '%s'", m.rec.State)
		}
		m.asked = false
		m.interrupt("launch", "add", "payload", "resize")
		return m.commit(ctx, func(r *record) { r.State, r.Target, r.Stop = gondola.Stopping, gondola.Stopped, &req },
			event{kind: "stop", source: "user"})
	})
}

// Restart stops a started Machine and starts it again, in place.
func (w *Worker) Restart(ctx context.Context, ref gondola.Ref, req gondola.RestartRequest) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	return m.change(ctx, func(ctx context.Context) error {
		if !gondola.CanMove(m.rec.State, gondola.Restarting) {
			return gondola.Errorf(gondola.ErrPrecondition, "unable to restart machine from current state: '%s'", m.rec.State)
		}
		m.asked = false
		m.interrupt("launch", "add", "payload", "resize")
		return m.commit(ctx, func(r *record) {
			r.State, r.Target, r.Stop = gondola.Restarting, gondola.Started, &gondola.StopRequest{Signal: req.Signal, Timeout: req.Timeout}
			r.Kill = req.ForceStop
		}, event{kind: "restart", status: string(gondola.Stopping), source: "user"})
	})
}

// Destroy undoes a Machine for ever; one that is not at rest needs force.
func (w *Worker) Destroy(ctx context.Context, ref gondola.Ref, force bool) error {
	if err := w.awaitRun(ctx); err != nil {
		return err
	}
	m := w.lookup(ref)
	if m == nil {
		_, err := w.destroyed(ctx, ref)
		return err
	}
	err := m.change(ctx, func(ctx context.Context) error {
		switch {
		case m.rec.State == gondola.Destroying || m.rec.State == gondola.Destroyed:
			return nil
		case !force && (m.rec.State.Transient() || m.rec.State == gondola.Started):
			return gondola.Errorf(gondola.ErrPrecondition, "unable to destroy machine from current state: '%s': stop it first, or use force", m.rec.State)
		}
		m.interrupt("launch", "add", "payload", "resize", "ask", "suspend", "clean")
		return m.commit(ctx, func(r *record) { r.State, r.Target, r.Kill = gondola.Destroying, gondola.Destroyed, true },
			event{kind: "destroy", source: "user"})
	})
	if err != nil && w.lookup(ref) == nil {
		_, err = w.destroyed(ctx, ref) // it was faster
	}
	return err
}

// Update puts a new Config in place as a new Version. A Machine that runs is stopped, and started with the new one at the same addresses; one
// that is at rest is started too, unless req.SkipLaunch.
func (w *Worker) Update(ctx context.Context, ref gondola.Ref, req gondola.UpdateRequest) (gondola.Machine, error) {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return gondola.Machine{}, err
	}
	config := *lasting(&req.Config) // those that were added are the old Version's
	if err := w.validate(&config, m.runs); err != nil {
		return gondola.Machine{}, err
	}
	return answer(ctx, m.change, func(ctx context.Context) (gondola.Machine, error) {
		if err := m.update(ctx, req, &config); err != nil {
			return gondola.Machine{}, err
		}
		return *w.hub.view(m.id), nil
	})
}

func (m *machine) update(ctx context.Context, req gondola.UpdateRequest, config *gondola.Config) error {
	r := &m.rec
	var x gondola.CreateExtension
	if req.Gondola != nil {
		x = *req.Gondola
	}
	fresh := keptFrom(&x, req.SkipSecrets)
	switch {
	case req.CurrentVersion != "" && req.CurrentVersion != r.Version:
		return gondola.Errorf(gondola.ErrConflict, "machine %s has version %s, not %s: read it again", m.id, r.Version, req.CurrentVersion)
	case req.Name != "" && req.Name != r.Name:
		return gondola.Errorf(gondola.ErrInvalid, "machine %s is named %q, which cannot change", m.id, r.Name)
	case r.Config.Gondola != nil && config.Gondola == nil && !req.Force:
		return gondola.Errorf(gondola.ErrInvalid, "config.gondola of machine %s would be dropped: send it along, or use force", m.id)
	case config.Gondola != nil && config.Gondola.Driver != "" && config.Gondola.Driver != r.Driver:
		return gondola.Errorf(gondola.ErrUnsupported, "config.gondola.driver: machine %s runs on %s, which cannot change", m.id, r.Driver)
	case !gondola.CanMove(r.State, gondola.Updating):
		return gondola.Errorf(gondola.ErrPrecondition, "unable to update machine from current state: '%s'", r.State)
	}
	if err := checkSecrets(m.app, req.CreateRequest, fresh.App); err != nil {
		return err
	}
	if err := m.w.checkServices(r.App, r.Network, config); err != nil {
		return err
	}
	if err := m.w.checkGateway(r.Network, config); err != nil {
		return err
	}
	target, want := gondola.Started, r.Allocated
	if req.SkipLaunch {
		target = gondola.Stopped
		if r.State == gondola.Created {
			target = gondola.Created
		}
	} else {
		// Until the old version has ended it holds what both need at most.
		requests, _ := config.Requests()
		want = gondola.Resources{CPUMillis: max(want.CPUMillis, requests.CPUMillis), MemoryBytes: max(want.MemoryBytes, requests.MemoryBytes)}
		if err := m.take(want); err != nil {
			return err
		}
	}
	if err := m.w.disks.claim(m.app, m.id, config); err != nil {
		m.w.ledger.set(m.id, r.Allocated)
		return err
	}
	m.asked = false
	m.interrupt("launch", "add", "payload", "resize")
	m.noteServices(config)
	change := func(r *record) {
		r.State, r.Target, r.Version, r.Config, r.Allocated = gondola.Updating, target, gondola.NewVersion(time.Now()), config, want
		r.Stop, r.Kill, r.Reason, r.Message, r.SkipSecrets = nil, false, "", "", req.SkipSecrets
		r.reschedule(m.rec.Config.Schedule, time.Now())
	}
	e := event{kind: "update", status: string(gondola.Replacing), source: "user"}
	_, err := m.keep(ctx, func(k *kept) {
		if x.Payload != nil {
			k.Payload = fresh.Payload
		}
		if k.App = fresh.App; k.App == nil && k.had { // so that what a pilot has of it is replaced
			k.App = &gondola.SecretSet{}
		}
	}, change, e)
	if err != nil {
		m.w.disks.hold(m.id, m.rec.volumes())
	}
	return err
}

// SetMetadata merges values into the Config's metadata. It makes no new Version.
func (w *Worker) SetMetadata(ctx context.Context, ref gondola.Ref, version gondola.Version, values map[string]*string) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	return m.do(ctx, func(ctx context.Context) error {
		if version != "" && version != m.rec.Version {
			return gondola.Errorf(gondola.ErrPrecondition, "machine %s has version %s, not %s: read it again", m.id, m.rec.Version, version)
		}
		config := *m.rec.Config
		config.Metadata = maps.Clone(config.Metadata)
		if config.Metadata == nil {
			config.Metadata = map[string]string{}
		}
		for k, v := range values {
			if v == nil || *v == "" {
				delete(config.Metadata, k)
			} else {
				config.Metadata[k] = *v
			}
		}
		return m.commit(ctx, func(r *record) { r.Config = &config })
	})
}

// PutPayload seals a new payload and hands it to the pilot that runs, if one does. It makes no new Version.
func (w *Worker) PutPayload(ctx context.Context, ref gondola.Ref, p gondola.Payload) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	var api pilot.API
	var given *gondola.Payload
	err = m.do(ctx, func(ctx context.Context) error {
		if m.rec.State == gondola.Destroying || m.rec.State == gondola.Destroyed {
			return gondola.Errorf(gondola.ErrPrecondition, "machine %s is %s", m.id, m.rec.State)
		}
		if m.payloads++; m.conn != nil {
			api = m.conn.api
		}
		merged, err := m.keep(ctx, func(k *kept) { k.Payload = over(k.Payload, p) }, func(*record) {})
		given = merged
		return err
	})
	if err != nil || api == nil {
		return err
	}
	if err := api.PutPayload(ctx, *given); !errors.Is(err, pilot.ErrGone) { // the next pilot is started with it
		return err
	}
	return nil
}
