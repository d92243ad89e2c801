package worker

import (
	"context"
	"time"

	"gondola"
)

// scheduleRetry is when a start on time that found no room is tried again.
const scheduleRetry = time.Minute

// reschedule sets when a Machine is due next, after a change of its schedule; one that stays keeps its phase.
func (r *record) reschedule(before string, now time.Time) {
	switch {
	case r.Config.Schedule == "":
		r.Due = time.Time{}
	case r.Config.Schedule != before || r.Due.IsZero():
		r.Due = gondola.NextRun(r.Config.Schedule, now, now)
	}
}

// due is when the Machine's schedule wants something next; the zero time if it wants nothing now.
func (m *machine) due() time.Time {
	switch m.rec.State {
	case gondola.Created, gondola.Stopped, gondola.Failed:
		if m.rec.Target == gondola.Destroyed {
			return time.Time{}
		}
		return m.rec.Due
	case gondola.Starting, gondola.Started:
		return m.rec.Due
	case gondola.Stopping, gondola.Suspending, gondola.Suspended, gondola.Restarting, gondola.Updating, gondola.Replacing, gondola.Replaced,
		gondola.Destroying, gondola.Destroyed, gondola.LaunchFailed, gondola.Migrated:
		return time.Time{}
	}
	return time.Time{}
}

// stepSchedule starts a Machine whose time has come, the one time also where several were missed; one that runs then misses its turn. done says
// that there was nothing to do.
func (m *machine) stepSchedule(ctx context.Context) (done bool, err error) {
	at, now := m.due(), time.Now()
	if at.IsZero() || now.Before(at) {
		return true, nil
	}
	next := gondola.NextRun(m.rec.Config.Schedule, at, now)
	if m.rec.State == gondola.Starting || m.rec.State == gondola.Started {
		if m.conn == nil || !m.conn.heard { // it may have ended while the worker was away
			return true, nil
		}
		return false, m.commit(ctx, func(r *record) { r.Due = next })
	}
	want, _ := m.rec.Config.Requests()
	full := m.w.diskFull()
	if full == "" {
		if err := m.take(want); err != nil {
			full = err.Error()
		}
	}
	if full != "" {
		m.note(gondola.Note{Warning: true, Reason: "ScheduleDelayed", Message: "it is time to start, and " + full + "; tried again in " + scheduleRetry.String()})
		m.pauseTo = now.Add(scheduleRetry)
		return true, nil
	}
	return false, m.commit(ctx, func(r *record) {
		r.State, r.Target, r.Allocated, r.Final, r.Reason, r.Message, r.Due = gondola.Starting, gondola.Started, want, nil, "", "", next
	}, event{kind: "start", source: "flyd"})
}
