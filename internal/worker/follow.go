package worker

import (
	"context"
	"slices"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// maxNotes is how many notes a Machine shows.
const maxNotes = 50

// heard takes in what the pilot tells. A restart of a plain Machine's main container is an event.
func (m *machine) heard(ctx context.Context, st pilot.Status) {
	if st.Seq <= m.conn.stale {
		return
	}
	restarts := func() int {
		if c := m.mainContainer(); c != nil && m.conn.heard {
			return c.RestartCount
		}
		return -1
	}
	before := restarts()
	m.status, m.pulling, m.conn.heard = &st, nil, true
	m.notes.heard(st)
	if st.Phase != pilot.Booting {
		m.conn.up()
	}
	if st.Phase == pilot.Running {
		m.failures = 0
		if m.booting != nil {
			m.booting(nil)
			m.booting = nil
		}
	}
	if before >= 0 && restarts() > before && m.rec.State == gondola.Started && !isPod(m.rec.Config) {
		if err := m.commit(ctx, func(*record) {}, m.exitEvent(false, true)); err == nil {
			return
		}
	}
	m.show()
}

// hungUp decides what the end of the pilot's stream means, by the last that it told.
func (m *machine) hungUp(ctx context.Context) {
	phase := pilot.Booting
	if m.conn.heard {
		phase = m.status.Phase
	}
	m.disconnect()
	m.ended(ctx, phase)
}

// ended takes in how a pilot, or the journal of one, ended.
func (m *machine) ended(ctx context.Context, phase pilot.Phase) {
	if m.rec.State == gondola.Suspending && phase.Final() && phase != pilot.Suspended {
		m.notSuspended(ctx, "its sandbox has ended before: "+string(phase))
	}
	down := m.rec.State == gondola.Stopping || m.rec.State == gondola.Restarting || m.rec.State == gondola.Updating
	switch {
	case !phase.Final():
		m.asked = false // the pilot is gone, perhaps without its sandbox: the next launch finds out
	case phase == pilot.Suspended:
		m.outcome = &outcome{state: gondola.Suspended}
	case down || phase == pilot.Ended:
		m.outcome = &outcome{state: gondola.Stopped}
	case phase == pilot.Failed:
		m.outcome = &outcome{state: gondola.Failed, reason: "SandboxFailed", message: m.status.Message}
	case phase == pilot.Lost:
		m.lost()
	}
}

// lost follows the death of the sandbox: the Machine starts again in place, the first time at once. The next pilot tells it (SandboxChanged).
func (m *machine) lost() {
	m.w.counts.losses.Add(1)
	if m.rec.State == gondola.Started {
		m.rec.State = gondola.Starting // as after a crash of the worker: the record follows with the next step
		m.show()
	}
	if time.Since(m.lastLoss) > gondola.FlyBackoff.Forget {
		m.losses = 0
	}
	m.lastLoss = time.Now()
	m.pauseTo = m.lastLoss.Add(gondola.FlyBackoff.Wait(m.losses))
	m.losses++
}

// settle goes to the state that follows once nothing of the Machine is on the host.
func (m *machine) settle(ctx context.Context) error {
	r, out := &m.rec, m.outcome
	m.asked, m.killAt, m.failures = false, time.Time{}, 0
	clear := func(r *record) { r.Stop, r.Kill, r.Asleep = nil, false, false }
	switch r.State {
	case gondola.Stopping:
		e := event{kind: "stop", source: "flyd"}
		if m.status != nil { // something ran
			e = m.exitEvent(true, false)
		}
		return m.commit(ctx, func(r *record) {
			clear(r)
			r.State, r.Allocated, r.Reason, r.Message = gondola.Stopped, gondola.Resources{}, "", ""
			if r.Config.AutoDestroy {
				r.Target = gondola.Destroyed
			}
		}, e)
	case gondola.Suspending:
		if !r.hasSnapshot() { // the sandbox died before its memory was on disk
			m.outcome = nil
			m.notSuspended(ctx, "its sandbox has ended before")
			return nil
		}
		return m.commit(ctx, func(r *record) {
			clear(r)
			r.State, r.Target, r.Allocated, r.Reason, r.Message = gondola.Suspended, gondola.Suspended, gondola.Resources{}, "", ""
			r.Asleep = true
		}, event{kind: "suspend", source: "flyd"})
	case gondola.Restarting:
		return m.commit(ctx, func(r *record) { clear(r); r.State = gondola.Starting }, m.exitEvent(true, true), event{kind: "restart", source: "flyd"})
	case gondola.Updating:
		want, _ := r.Config.Requests()
		var events []event
		if m.status != nil { // the old version's
			events = append(events, m.exitEvent(true, r.Target == gondola.Started))
		}
		return m.commit(ctx, func(r *record) {
			clear(r)
			switch r.Target {
			case gondola.Started:
				r.State, r.Allocated = gondola.Starting, want
			case gondola.Created:
				r.State, r.Allocated = gondola.Created, gondola.Resources{}
			default:
				r.State, r.Target, r.Allocated = gondola.Stopped, gondola.Stopped, gondola.Resources{}
			}
		}, append(events, event{kind: "update", source: "flyd"})...)
	case gondola.Starting, gondola.Started:
		if out == nil {
			return nil
		}
		e := m.exitEvent(false, false)
		if out.state != gondola.Stopped {
			e = event{kind: "start", source: "flyd"}
		}
		return m.commit(ctx, func(r *record) {
			clear(r)
			r.State, r.Target, r.Allocated, r.Reason, r.Message = out.state, gondola.Stopped, gondola.Resources{}, out.reason, out.message
			if r.Config.AutoDestroy && out.state == gondola.Stopped {
				r.Target = gondola.Destroyed
			}
		}, e)
	default:
		return nil
	}
}

// exitEvent tells how the main container ended; restarting that it is started again.
func (m *machine) exitEvent(requested, restarting bool) event {
	d := gondola.ExitDetails{GuestSignal: -1, Signal: -1, RequestedStop: requested, Restarting: restarting, ExitedAt: time.Now().UTC()}
	restarts := 0
	if c := m.mainContainer(); c != nil {
		end := c.State
		switch {
		case end.Kind == gondola.ContainerRunning && requested: // nobody asked it, or it did not listen: it was killed
			end = gondola.ContainerState{Kind: gondola.ContainerExited, ExitCode: 137, Signal: 9}
		case end.Kind != gondola.ContainerExited && c.Last != nil:
			end = *c.Last
		}
		if end.Kind == gondola.ContainerExited {
			d.ExitCode, d.GuestExitCode, d.OOMKilled = end.ExitCode, end.ExitCode, end.Reason == "OOMKilled"
			if end.Signal != 0 {
				d.GuestSignal, d.Signal = end.Signal, end.Signal
			}
			if !end.FinishedAt.IsZero() {
				d.ExitedAt = end.FinishedAt.UTC()
			}
		}
		restarts = c.RestartCount
	}
	return event{kind: "exit", status: string(gondola.Stopped), source: "flyd", request: gondola.ExitEvent{ExitEvent: d, RestartCount: restarts}}
}

// mainContainer is the status of the first container that is not an init container.
func (m *machine) mainContainer() *gondola.ContainerStatus {
	st := m.status
	if st == nil {
		st = m.rec.Final
	}
	if st == nil {
		return nil
	}
	for _, k := range m.rec.Config.AllContainers() {
		if k.Gondola != nil && k.Gondola.Init {
			continue
		}
		if i := slices.IndexFunc(st.Containers, func(c gondola.ContainerStatus) bool { return c.Name == k.Name }); i >= 0 {
			return &st.Containers[i]
		}
		return nil
	}
	return nil
}

// note adds a note of the worker's own. It reaches the disk with the next step.
func (m *machine) note(n gondola.Note) {
	n = m.notes.add(n)
	own := append(slices.Clone(m.rec.Notes), n)
	m.rec.Notes = own[max(0, len(own)-maxNotes):]
	m.show()
}

// notes merges the worker's and the pilot's notes of a Machine in the order in which they came. Their numbers are their times in nanoseconds,
// so that they grow over restarts of both and need no record of their own.
type notes struct {
	all  []gondola.Note
	last uint64 // number given last
	seen uint64 // pilot's number of the last note taken in
}

func (n *notes) add(note gondola.Note) gondola.Note {
	if note.Time.IsZero() {
		note.Time = time.Now().UTC()
	}
	note.Seq = max(n.last+1, uint64(note.Time.UnixNano()))
	n.last = note.Seq
	n.all = append(n.all, note)
	if over := len(n.all) - maxNotes; over > 0 {
		n.all = slices.Clone(n.all[over:]) // views share the old one
	}
	return note
}

// heard takes in the pilot's notes that are new.
func (n *notes) heard(st pilot.Status) {
	for _, note := range st.Notes {
		if note.Seq > n.seen {
			n.seen = note.Seq
			n.add(note)
		}
	}
}

// restore begins with what is on record: the worker's own notes, and the pilot's as far as the last run has ended.
func (n *notes) restore(own []gondola.Note, final *pilot.Status) {
	n.all = slices.Clone(own)
	if final != nil {
		for _, note := range final.Notes {
			n.seen = max(n.seen, note.Seq)
			note.Seq = uint64(note.Time.UnixNano())
			n.all = append(n.all, note)
		}
	}
	slices.SortStableFunc(n.all, func(a, b gondola.Note) int { return a.Time.Compare(b.Time) })
	n.all = n.all[max(0, len(n.all)-maxNotes):]
	for _, note := range n.all {
		n.last = max(n.last, note.Seq)
	}
}
