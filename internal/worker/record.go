package worker

import (
	"context"
	"encoding/json"
	"time"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
	"gondola/internal/store"
)

// Steps: what may be on the host of a Machine.
const (
	stepNone = ""    // nothing but its directory
	stepRun  = "run" // network and perhaps a sandbox: recorded before they are made, taken back after they are undone
)

// shownEvents is how many events a Machine shows.
const shownEvents = 20

// record is what the worker remembers of a Machine; the maps and pointers in it are replaced, never changed.
type record struct {
	store.Machine
	detail
}

// detail is the part of a record that only the worker reads.
type detail struct {
	Driver  string               `json:"driver"`
	Spec    *pilot.Spec          `json:"spec,omitempty"`     // what was launched last; holds no secrets
	Digests []string             `json:"digests,omitempty"`  // of the images it uses
	Final   *pilot.Status        `json:"final,omitempty"`    // how its last run ended
	DoneSeq uint64               `json:"done_seq,omitempty"` // the pilot's Seq at that end: what is later is of another run
	Ran     bool                 `json:"ran,omitempty"`      // it was started at least once
	Halting bool                 `json:"halting,omitempty"`  // the platform goes down: its end is not the Machine's
	Stop    *gondola.StopRequest `json:"stop,omitempty"`     // how to end the present sandbox, where somebody said
	Kill    bool                 `json:"kill,omitempty"`     // end it without asking
	Notes   []gondola.Note       `json:"notes,omitempty"`    // the worker's own, the last 50
	Mounted []gondola.VolumeID   `json:"mounted,omitempty"`  // Volumes of what was launched last
	Lease   *gondola.Lease       `json:"lease,omitempty"`    // the last one, which may have run out; nil once it was given back

	Cordoned bool `json:"cordoned,omitempty"` // its services get no new connections
	Asleep   bool `json:"asleep,omitempty"`   // it has been suspended, and has not run since
	Resized  bool `json:"resized,omitempty"`  // the Spec's sizes may not be in effect yet

	Due         time.Time `json:"due,omitzero"`           // when its schedule starts it next
	SkipSecrets bool      `json:"skip_secrets,omitempty"` // it gets none of the App's
}

func (r record) row() (store.Machine, error) {
	b, err := json.Marshal(r.detail)
	r.Machine.Detail = b
	return r.Machine, err
}

// keepsRootfs says whether what its containers have written outlives a sandbox that is being undone. It follows from the record alone, so what is
// undone twice is decided alike.
func (r *record) keepsRootfs() bool {
	restarts := r.State == gondola.Restarting || r.State == gondola.Suspending || r.Halting && (r.State == gondola.Starting || r.State == gondola.Started)
	persistence, _ := r.Config.Persistence() // validate has seen it
	return persistence == gondola.PersistAlways || persistence == gondola.PersistRestart && restarts
}

// event is an Event to come.
type event struct {
	kind, source string
	status       string // if empty, the state it leads to
	request      any
}

// commit changes the record, on disk first, and shows it. A change of State that the transition table does not have is ErrPrecondition and
// changes nothing. What the Machine holds follows the record: less is given back here, more was taken before.
func (m *machine) commit(ctx context.Context, change func(*record), events ...event) error {
	return m.commitWith(ctx, change, func(row store.Machine, es []gondola.Event) error { return m.w.store.Save(ctx, row, es...) }, events...)
}

func (m *machine) commitWith(ctx context.Context, change func(*record), save func(store.Machine, []gondola.Event) error, events ...event) error {
	next := m.rec
	change(&next)
	if next.State != m.rec.State && !gondola.CanMove(m.rec.State, next.State) {
		m.w.ledger.set(m.id, m.rec.Allocated)
		return gondola.Errorf(gondola.ErrPrecondition, "machine %s cannot become %s: it is %s", m.id, next.State, m.rec.State)
	}
	next.UpdatedAt = m.now()
	es := m.eventsOf(next.State, events)
	row, err := next.row()
	if err == nil {
		failpoint.Hit("worker.record.begun")
		err = save(row, es)
	}
	if err != nil {
		m.w.ledger.set(m.id, m.rec.Allocated)
		return err
	}
	failpoint.Hit("worker.record.saved")
	m.describe(ctx, next)
	m.w.disks.hold(m.id, next.volumes())
	freed := next.Allocated != m.rec.Allocated || !next.DestroyedAt.IsZero()
	m.rec = next
	m.events = append(es, m.events...)
	m.events = m.events[:min(len(m.events), shownEvents):min(len(m.events), shownEvents)]
	if !next.DestroyedAt.IsZero() {
		m.w.forget(m) // before anybody hears of it: who does may take its name at once
		m.w.ledger.release(m.id, next.Number)
	} else {
		m.w.ledger.set(m.id, next.Allocated)
	}
	m.show()
	if freed {
		m.w.offerChanged()
	}
	return nil
}

// now is a time later than the last change of the Machine, whatever the clock does.
func (m *machine) now() time.Time {
	now := time.Now().UTC()
	if !now.After(m.rec.UpdatedAt) {
		now = m.rec.UpdatedAt.Add(time.Microsecond)
	}
	return now
}

// eventsOf makes Events, newest first, whose ids grow within the Machine: a ULID has milliseconds only.
func (m *machine) eventsOf(state gondola.State, events []event) []gondola.Event {
	var es []gondola.Event
	for _, e := range events {
		at := time.Now()
		if !at.Truncate(time.Millisecond).After(m.lastEvent) {
			at = m.lastEvent.Add(time.Millisecond)
		}
		m.lastEvent = at.Truncate(time.Millisecond)
		out := gondola.Event{ID: gondola.NewULID(at), Type: e.kind, Status: e.status, Source: e.source, Timestamp: at.UnixMilli()}
		if out.Status == "" {
			out.Status = string(state)
		}
		if e.request != nil {
			out.Request, _ = json.Marshal(e.request)
		}
		es = append([]gondola.Event{out}, es...)
	}
	return es
}
