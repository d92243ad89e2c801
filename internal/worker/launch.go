package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// relaunches is how often a Machine whose sandbox died is tried to be brought back before it is failed.
const relaunches = 5

// launch begins the job that ends with a connection to the Machine's pilot. It finds the one that runs; where only the sandbox does, it starts
// another pilot for it; where neither does, it makes the sandbox anew if that is wanted.
func (m *machine) launch(ctx context.Context, anew bool) {
	rec, base, payloads, isolation := m.rec, ctx, m.payloads, m.driver()
	m.begin(ctx, "launch", func(ctx context.Context) func(context.Context) {
		l := &launcher{m: m, w: m.w, rec: rec, driver: isolation, payloads: payloads}
		ctx, end := m.span(ctx, "machine launch")
		conn, err := l.find(ctx, base)
		if l.dead && anew && l.final == nil {
			if err = l.make(ctx); err == nil {
				conn, err = connect(ctx, base, l.api, bootTime)
			}
			end(err)
		}
		if conn != nil {
			conn.stale = l.stale
		}
		if l.slot != nil && conn != nil {
			conn.hold(l.slot)
		} else if l.slot != nil {
			l.slot()
		}
		return func(ctx context.Context) { m.launched(ctx, l, conn, err) }
	})
}

// How long a pilot may take to answer that it is watched: one that is found, and one that was just started, which may boot or resume its sandbox
// before.
const (
	answerTime = 10 * time.Second
	bootTime   = 2 * time.Minute
)

// errSilent is a pilot that takes a connection and does not answer. It says nothing about the sandbox.
var errSilent = gondola.Errorf(gondola.ErrDeadline, "the pilot does not answer")

// connect watches a pilot for as long as base. Its first answer is waited for until ctx ends, and no longer than within.
func connect(ctx, base context.Context, api pilot.API, within time.Duration) (*connection, error) {
	watch, cancel := context.WithCancel(base)
	answer, end := context.WithTimeout(ctx, within)
	defer end()
	stop := context.AfterFunc(answer, cancel)
	updates, err := api.Watch(watch)
	late := !stop()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case late:
		err = errSilent
	case err == nil:
		return &connection{api: api, updates: updates, cancel: cancel, up: func() {}}, nil
	}
	cancel()
	return nil, fmt.Errorf("watch the pilot: %w", err)
}

// slotTime is how long a Machine that does not come up may keep others from starting.
const slotTime = 20 * time.Second

// hold keeps a launch slot until the sandbox is up, or the pilot gone: sandboxes that start side by side beyond what there are cores for only
// take longer each.
func (c *connection) hold(slot func()) {
	timer := time.AfterFunc(slotTime, slot)
	c.up = func() {
		timer.Stop()
		slot()
	}
}

// launched takes in what came of a launch.
func (m *machine) launched(ctx context.Context, l *launcher, conn *connection, err error) {
	m.w.cfg.Host.Pins().release(m.id)
	down := m.rec.State != gondola.Starting && m.rec.State != gondola.Started
	var refused *imageError
	switch {
	case conn != nil:
		m.conn, m.pulling, m.asked = conn, nil, false
		if l.given {
			_, m.booting = m.span(ctx, "machine boot")
		}
		if !l.given || l.payloads != m.payloads {
			m.givePayload(ctx) // it may not have the newest
		}
	case l.final != nil: // it ended while nobody looked
		m.status = l.final
		m.notes.heard(*l.final)
		m.ended(ctx, l.final.Phase)
	case l.dead && errors.Is(err, pilot.ErrGone) && m.rec.State == gondola.Suspending:
		m.outcome = &outcome{state: gondola.Suspended} // or not: settle sees
	case l.dead && errors.Is(err, pilot.ErrGone) && down:
		m.outcome = &outcome{state: gondola.Stopped}
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
		// Interrupted: the record says what is next.
	case errors.As(err, &refused):
		state := gondola.LaunchFailed
		if m.rec.Ran || errors.Is(err, gondola.ErrUnavailable) {
			state = gondola.Failed
		}
		m.outcome = &outcome{state: state, reason: "ImageFailed", message: err.Error()}
	case errors.Is(err, pilot.ErrGone) && m.rec.Step == stepRun && m.failures < relaunches:
		m.retry(err, "launch") // the pilot died before it told anything: what it has done is found next time
	case errors.Is(err, errSilent) && m.rec.Step == stepRun:
		m.found() // as far as can be
		m.retry(err, "find the sandbox")
	case down, l.rec.Step == stepRun && (!l.dead || m.failures < relaunches):
		m.retry(err, "find the sandbox") // it may be alive: a host that is slow to answer must not cost a machine
	case errors.Is(err, gondola.ErrPrecondition) && m.rec.Config.Gondola != nil && m.rec.Config.Gondola.RetryPull:
		m.note(gondola.Note{Warning: true, Reason: "FailedMount", Message: preconditionOf(err)})
		m.retry(err, "launch")
	case m.rec.Config.Gondola != nil && m.rec.Config.Gondola.RetryPull:
		m.note(gondola.Note{Warning: true, Reason: "FailedCreatePodSandBox", Message: "Failed to create pod sandbox: " + err.Error()})
		m.retry(err, "launch")
	default:
		m.log.Error("launch failed", "err", err)
		m.outcome = &outcome{state: gondola.Failed, reason: "LaunchFailed", message: err.Error()}
	}
}

// imageError is the failure of an image, as opposed to one of the host.
type imageError struct{ err error }

func (e *imageError) Error() string { return e.err.Error() }
func (e *imageError) Unwrap() error { return e.err }

// launcher is the work of one launch, beside the Machine's goroutine. rec is its copy of the record.
type launcher struct {
	m        *machine
	w        *Worker
	rec      record
	driver   driver.Driver
	payloads int // m.payloads at the beginning

	api   pilot.API
	dead  bool          // nothing of it runs: its network may be made anew. A pilot that is gone (pilot.ErrGone) does not say so
	final *pilot.Status // the run ended by itself, its pilot is gone
	slot  func()        // gives back the launch slot; may be called again. Nil: it took none
	given bool          // the pilot was started with the payload of then
	stale uint64        // a pilot that was started tells of the run before up to this Seq
}

// find connects to what runs, for as long as base; where only the sandbox does, to a new pilot. If nothing does, dead is set and the error is
// pilot.ErrGone. Any other error, also of a pilot that dies as soon as it is there, says nothing about the sandbox.
func (l *launcher) find(ctx, base context.Context) (*connection, error) {
	spec := l.rec.Spec
	if l.rec.Step != stepRun || spec == nil {
		l.dead = true
		return nil, pilot.ErrGone
	}
	failpoint.Hit("worker.adopt.begun")
	api, err := l.driver.Adopt(ctx, *spec)
	if err == nil {
		failpoint.Hit("worker.adopt.found")
		var conn *connection
		if conn, err = connect(ctx, base, api, answerTime); err == nil {
			l.keep(ctx)
			return conn, nil
		}
	}
	if !errors.Is(err, pilot.ErrGone) { // one that dies may still have answered
		return nil, err
	}
	alive, err := l.driver.Alive(ctx, *spec)
	if err != nil {
		return nil, err
	}
	if alive {
		l.keep(ctx)
		return l.replacePilot(ctx, base)
	}
	st, err := pilot.ReadStatus(spec.Dir)
	if err != nil {
		return nil, err
	}
	over := st.Phase == pilot.Ended || st.Phase == pilot.Failed || st.Phase == pilot.Suspended && l.rec.State == gondola.Suspending
	if st.Version == spec.Version && st.Seq > l.rec.DoneSeq && over && !l.rec.Halting {
		l.final = &st
	}
	l.dead = true
	return nil, pilot.ErrGone
}

// keep sees to the network of a sandbox that runs. One that it cannot mend is no reason to leave the Machine alone.
func (l *launcher) keep(ctx context.Context) {
	if err := l.w.cfg.Host.Keep(ctx, hostMachine(l.rec)); err != nil && ctx.Err() == nil {
		l.m.log.Error("the network of the machine may not work", "err", err)
	}
}

// replacePilot starts another pilot for a sandbox that runs without.
func (l *launcher) replacePilot(ctx, base context.Context) (*connection, error) {
	l.w.counts.pilots.Add(1)
	payload, err := l.w.payload(ctx, l.rec.ID, l.rec.Config)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("worker.adopt.sandbox")
	api, err := l.driver.Launch(ctx, *l.rec.Spec, payload)
	if err != nil {
		return nil, err
	}
	l.given = true
	return connect(ctx, base, api, bootTime)
}

// make makes network and sandbox anew. After a crash of the sandbox the images are there and the spec is what it was.
func (l *launcher) make(ctx context.Context) error {
	spec := l.rec.Spec
	digests := l.rec.Digests
	var pulled images
	if again := (l.rec.Step == stepRun || l.rec.hasSnapshot()) && spec != nil && spec.Version == l.rec.Version && imagesThere(spec); !again {
		pulling, end := l.m.span(ctx, "pull images")
		failpoint.Hit("worker.launch.begun")
		var err error
		pulled, err = l.pull(pulling)
		end(err)
		if err != nil {
			return &imageError{err}
		}
		failpoint.Hit("worker.launch.pulled")
		digests = pulled.digests()
	}
	payload, err := l.w.payload(ctx, l.rec.ID, l.rec.Config)
	if err != nil {
		return err
	}
	select {
	case l.w.slots <- struct{}{}:
		l.slot = sync.OnceFunc(func() { <-l.w.slots })
	case <-ctx.Done():
		return ctx.Err()
	}
	volumes, err := l.mountVolumes(ctx)
	if err != nil {
		return err
	}
	failpoint.Hit("worker.launch.mounted")
	preparing, end := l.m.span(ctx, "prepare host")
	prepared, err := l.w.cfg.Host.Prepare(preparing, hostMachine(l.rec), true)
	end(err)
	if err != nil {
		return fmt.Errorf("prepare the host: %w", err)
	}
	failpoint.Hit("worker.launch.prepared")
	if pulled != nil {
		s, err := l.w.buildSpec(l.rec, pulled, prepared, volumes)
		if err != nil {
			return &imageError{err}
		}
		spec = &s
	}
	ran := l.rec.Ran
	err = l.record(ctx, pulled != nil, func(r *record) {
		if pulled != nil && ran { // ephemeral containers were the run's before
			r.Config = lasting(r.Config)
		}
		spec = l.w.sizedSpec(spec, r.Config) // it may have been resized meanwhile
		r.State, r.Step, r.Spec, r.Digests, r.Halting, r.Final = gondola.Starting, stepRun, spec, digests, false, nil
		r.Reason, r.Message, r.Mounted = "", "", mounted(l.rec.Config)
	})
	if err != nil {
		return err
	}
	failpoint.Hit("worker.launch.recorded")
	before, err := pilot.ReadStatus(spec.Dir)
	if err != nil {
		return err
	}
	l.stale, l.given = before.Seq, true
	starting, end := l.m.span(ctx, "start pilot")
	l.api, err = l.driver.Launch(starting, *spec, payload)
	end(err)
	if err != nil {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	failpoint.Hit("worker.launch.started")
	return nil
}

// imagesThere says whether nobody has removed the images that a Machine was launched from.
func imagesThere(spec *pilot.Spec) bool {
	gone := func(tree string) bool {
		_, err := os.Stat(tree)
		return tree != "" && errors.Is(err, os.ErrNotExist)
	}
	return !slices.ContainsFunc(spec.Containers, func(c pilot.Container) bool { return gone(c.Tree) }) &&
		!slices.ContainsFunc(spec.Volumes, func(v pilot.Volume) bool { return v.Kind == pilot.VolumeImage && gone(v.Source) })
}

// mountVolumes makes the Machine's Volumes visible on the host and says where.
func (l *launcher) mountVolumes(ctx context.Context) (map[gondola.VolumeID]string, error) {
	dirs := map[gondola.VolumeID]string{}
	for _, m := range l.rec.Config.Mounts {
		id, _ := m.Wanted()
		how := gondola.VolumeMountExtension{}
		if m.Gondola != nil {
			how = *m.Gondola
		}
		dir, err := l.w.cfg.Host.MountVolume(ctx, id, how)
		if err != nil {
			return nil, fmt.Errorf("mount volume %s: %w", id, err)
		}
		dirs[id] = dir
	}
	return dirs, nil
}

// unmountVolumes undoes mountVolumes, of a Config and of what was launched last.
func (w *Worker) unmountVolumes(ctx context.Context, rec record) error {
	for _, id := range append(mounted(rec.Config), rec.Mounted...) {
		if by := w.disks.holder(id); by == nil || *by != rec.ID {
			continue // it has been let go of, and may be another's by now
		}
		if err := w.cfg.Host.UnmountVolume(ctx, id); err != nil && !errors.Is(err, gondola.ErrNotFound) {
			return fmt.Errorf("unmount volume %s: %w", id, err)
		}
	}
	return nil
}

// record commits a change on the Machine's goroutine, unless it is to stop by now. first says that the run is not a continued one.
func (l *launcher) record(ctx context.Context, first bool, change func(*record)) error {
	return l.m.do(ctx, func(ctx context.Context) error {
		if l.m.rec.State != gondola.Starting && l.m.rec.State != gondola.Started {
			return context.Canceled
		}
		if first {
			l.m.status = nil // of an earlier run; after a crash it is shown until there is news
		}
		return l.m.commit(ctx, change)
	})
}

// pull brings the images and shows how that goes.
func (l *launcher) pull(ctx context.Context) (images, error) {
	l.m.found() // nothing of it runs, and a pull may go on for ever
	p := &puller{host: l.w.cfg.Host, pins: l.w.cfg.Host.Pins(), backoff: l.w.cfg.PullBackoff, credentials: l.w.credentials(l.rec.ID, l.rec.Config),
		retry: l.rec.Config.Gondola != nil && l.rec.Config.Gondola.RetryPull}
	p.tell = func(containers []string, waiting *gondola.ContainerState, notes ...gondola.Note) {
		l.m.do(ctx, func(context.Context) error {
			l.m.tell(containers, waiting, notes)
			return nil
		})
	}
	pulled, err := p.all(ctx, l.rec.ID, l.rec.Config.Lasting(), l.rec.Config.Volumes)
	if err == nil {
		l.w.imagesChanged(ctx)
	}
	return pulled, err
}

// tell shows what a pull says about containers.
func (m *machine) tell(containers []string, waiting *gondola.ContainerState, notes []gondola.Note) {
	pulling := map[string]gondola.ContainerState{}
	for name, s := range m.pulling {
		pulling[name] = s
	}
	for _, name := range containers {
		delete(pulling, name)
		if waiting != nil {
			pulling[name] = *waiting
		}
	}
	m.pulling, m.status = pulling, nil
	for _, name := range containers {
		for _, n := range notes {
			n.Container = name
			m.note(n)
		}
	}
	m.show()
}

func hostMachine(r record) HostMachine {
	m := HostMachine{ID: r.ID, Number: r.Number, Network: r.Network, NetworkID: r.NetworkID, Gateway: r.Config.UsesGateway(), HostNetwork: r.Config.HostNetwork()}
	if m.Gateway == "" {
		return m
	}
	m.Ports = r.Config.Gondola.Gateway.Ports
	for _, v := range r.Config.Volumes {
		if v.OnGateway() {
			m.Paths = append(m.Paths, HostPath{Volume: v.Name, Path: v.Gondola.Path, Type: v.Gondola.Type})
		}
	}
	return m
}

// clean begins the job that ends sandbox and network, and with disk the Machine itself; what follows is settled afterwards.
func (m *machine) clean(ctx context.Context, disk bool) {
	m.disconnect()
	rec := m.rec
	rec.Halting = false // of an earlier time: this end is the Machine's own
	m.begin(ctx, "clean", func(ctx context.Context) func(context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		err := m.undo(ctx, rec, disk)
		return func(ctx context.Context) {
			if err == nil {
				failpoint.Hit("worker.clean.undone")
				err = m.cleaned(ctx, disk)
				failpoint.Hit("worker.clean.recorded")
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) { // cancelled: for a clean-up that does more
				m.retry(err, "clean-up")
			}
		}
	})
}

// givePayload begins the job that hands the payload on record to the pilot.
func (m *machine) givePayload(ctx context.Context) {
	api, config := m.conn.api, m.rec.Config
	m.begin(ctx, "payload", func(ctx context.Context) func(context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		p, err := m.w.payload(ctx, m.id, config)
		if err == nil && p != nil {
			err = api.PutPayload(ctx, *p)
			failpoint.Hit("worker.payload.given")
		}
		return func(context.Context) {
			if err != nil {
				m.log.Warn("the pilot did not take the payload; it has an older one", "err", err)
			}
		}
	})
}

// undo takes everything of the Machine off the host. It can be done again.
func (m *machine) undo(ctx context.Context, rec record, disk bool) error {
	if rec.Spec != nil {
		failpoint.Hit("worker.clean.begun")
		if rec.State == gondola.Stopping || rec.State == gondola.Updating {
			if err := pilot.DiscardSnapshot(rec.Spec.Dir); err != nil {
				return err
			}
			failpoint.Hit("worker.clean.discarded")
		}
		spec := *rec.Spec
		spec.KeepRootfs = spec.KeepRootfs && rec.keepsRootfs()
		if err := m.driver().Kill(ctx, spec); err != nil {
			return fmt.Errorf("end the sandbox: %w", err)
		}
	}
	failpoint.Hit("worker.clean.killed")
	if err := m.w.cfg.Host.Release(ctx, rec.ID, disk); err != nil {
		return fmt.Errorf("release the host: %w", err)
	}
	failpoint.Hit("worker.clean.released")
	return m.w.unmountVolumes(ctx, rec)
}

// cleaned records that nothing of the Machine is on the host, together with the State that follows.
func (m *machine) cleaned(ctx context.Context, disk bool) error {
	if m.rec.State == gondola.Destroying && disk {
		m.outcome = nil
		return m.commit(ctx, func(r *record) {
			r.State, r.Target, r.Step, r.Allocated, r.DestroyedAt = gondola.Destroyed, gondola.Destroyed, stepNone, gondola.Resources{}, time.Now().UTC()
			r.Spec, r.Digests = nil, nil
			r.keepFinal(m.status)
		}, event{kind: "destroy", source: "flyd"})
	}
	before := m.rec
	m.rec.Step, m.rec.Halting = stepNone, false
	m.rec.keepFinal(m.status)
	if err := m.settle(ctx); err != nil {
		m.rec = before
		return err
	}
	m.outcome, m.status, m.failures = nil, nil, 0
	return nil
}

// keepFinal remembers how the run ended.
func (r *record) keepFinal(st *pilot.Status) {
	if st == nil {
		return
	}
	r.Final, r.DoneSeq = st, max(r.DoneSeq, st.Seq)
}
