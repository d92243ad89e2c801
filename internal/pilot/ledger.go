package pilot

import (
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gondola"
)

// maxNotes is how many notes a Status keeps.
const maxNotes = 50

// ledger is the one owner of what is known of a Machine. Every change goes through commit, which applies an entry, writes it to the journal
// and wakes those who wait; reading the journal applies the same entries.
type ledger struct {
	log *slog.Logger

	mu         sync.Mutex
	journal    *journal // nil once closed: changes are dropped
	seq, notes uint64   // last used
	version    gondola.Version
	phase      Phase
	message    string
	oom        bool // the sandbox has died for want of memory
	sandbox    sandboxRecord
	stop       *stopRecord
	containers []containerRecord
	recent     []gondola.Note
	checks     []gondola.CheckStatus
	closed     chan struct{} // closed when nothing will change any more
	changed    chan struct{} // closed and replaced at every change
}

// readLedger reads the journal in dir.
func readLedger(dir string, log *slog.Logger) (*ledger, int64, error) {
	l := &ledger{log: log, changed: make(chan struct{}), closed: make(chan struct{})}
	size, err := readJournal(filepath.Join(dir, "journal"), l.apply)
	return l, size, err
}

// ReadStatus returns what the journal in dir says of its Machine, without a pilot. A Machine that never ran has a Status without Version.
// The Phase is that of the last pilot: one that is not final says that it died.
func ReadStatus(dir string) (Status, error) {
	l, _, err := readLedger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return Status{}, err
	}
	s, _ := l.status()
	return s, nil
}

// apply makes the change that e describes.
func (l *ledger) apply(e entry) {
	l.seq = max(l.seq, e.Seq)
	if e.Version != "" && e.Version != l.version {
		l.version, l.containers, l.recent, l.checks, l.stop, l.message, l.oom = e.Version, nil, nil, nil, nil, "", false
	}
	if e.Phase != "" {
		l.phase, l.message = e.Phase, e.Message
		if e.Phase != Ending {
			l.stop = nil
		}
	}
	if e.Sandbox != nil {
		l.oom = l.oom && e.Sandbox.ID == l.sandbox.ID
		l.sandbox, l.checks = *e.Sandbox, nil
	}
	for _, c := range e.Checks {
		if i := slices.IndexFunc(l.checks, func(k gondola.CheckStatus) bool { return k.Name == c.Name }); i >= 0 {
			l.checks[i] = c
		} else {
			l.checks = append(l.checks, c)
		}
	}
	l.oom = l.oom || e.OOM
	if e.Stop != nil {
		l.stop = e.Stop
	}
	for _, c := range e.Containers {
		if i := l.index(c.Status.Name); i >= 0 {
			l.containers[i] = c
		} else {
			l.containers = append(l.containers, c)
		}
	}
	for _, n := range e.Notes {
		l.notes = max(l.notes, n.Seq)
		l.recent = append(l.recent, n)
	}
	if over := len(l.recent) - maxNotes; over > 0 {
		l.recent = slices.Delete(l.recent, 0, over)
	}
}

func (l *ledger) index(name string) int {
	return slices.IndexFunc(l.containers, func(c containerRecord) bool { return c.Status.Name == name })
}

// commitLocked applies and records e.
func (l *ledger) commitLocked(e entry, durable bool) {
	if l.journal == nil {
		return
	}
	l.seq++
	e.Seq = l.seq
	for i := range e.Notes {
		e.Notes[i].Seq = l.notes + 1 + uint64(i)
		e.Notes[i].Time = time.Now()
	}
	l.apply(e)
	if err := l.journal.append(e, durable); err != nil {
		l.log.Error("the journal cannot be written; a restart of the pilot will not know what happens now", "err", err)
	}
	if l.journal.size > maxJournal || l.journal.behind {
		if err := l.journal.compact(l.snapshotLocked()); err != nil {
			l.log.Error("the journal cannot be compacted", "err", err)
		}
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// snapshotLocked is the one entry that says everything.
func (l *ledger) snapshotLocked() entry {
	return entry{Seq: l.seq, Version: l.version, Phase: l.phase, Message: l.message, OOM: l.oom, Sandbox: &l.sandbox, Stop: l.stop,
		Containers: l.containers, Notes: l.recent, Checks: l.checks}
}

// open starts recording.
func (l *ledger) open(dir string, size int64, sync bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	j, err := openJournal(dir, size, sync)
	l.journal = j
	return err
}

// begin records that a pilot begins with spec. With clean, or for another version, all that was is void but the numbers of runs; of a Pod's
// container another version is another start.
func (l *ledger) begin(spec Spec, clean bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := map[string]containerRecord{}
	for _, c := range l.containers {
		old[c.Status.Name] = c
	}
	counts := l.version != "" && l.version != spec.Version && spec.RestartBackoff == "kubernetes"
	if clean || l.version != spec.Version {
		l.version, l.containers, l.recent, l.stop = "", nil, nil, nil
	}
	e := entry{Version: spec.Version, Phase: Booting}
	if (l.phase == Ending || l.phase == Suspending) && l.version == spec.Version {
		e.Phase = l.phase
	}
	for _, c := range spec.Containers {
		if l.index(c.Name) >= 0 {
			continue
		}
		rec := newRecord(&c, old[c.Name].Runs)
		if before := old[c.Name]; counts && before.Starts > 0 {
			rec = afresh(before, false, false, time.Now())
			rec.Status.Image, rec.Status.ImageID = c.Image, c.ImageID
		}
		e.Containers = append(e.Containers, rec)
	}
	l.commitLocked(e, false)
	return l.journal.compact(l.snapshotLocked()) // one line: what was void must not be read again
}

// newRecord is what is known of a container that never ran; runs is how often it did for other Versions.
func newRecord(c *Container, runs int) containerRecord {
	return containerRecord{Runs: runs, Status: gondola.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.ImageID, Ephemeral: isEphemeral(c),
		State: gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "ContainerCreating"}}}
}

func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.journal != nil {
		l.journal.close()
		l.journal = nil
		close(l.closed)
	}
}

// commit records a change of the Machine.
func (l *ledger) commit(e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commitLocked(e, true)
}

// note records something that happened; the same again within a minute is not news.
func (l *ledger) note(warning bool, container, reason, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.recent {
		if n.Container == container && n.Reason == reason && n.Message == message && time.Since(n.Time) < time.Minute {
			return
		}
	}
	l.commitLocked(entry{Notes: []gondola.Note{{Warning: warning, Container: container, Reason: reason, Message: message}}}, false)
}

// anyBegun says whether a container runs as far as is known.
func (l *ledger) anyBegun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.containers, func(c containerRecord) bool { return c.Begun })
}

// container returns what is known of a container.
func (l *ledger) container(name string) containerRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.index(name); i >= 0 {
		return l.containers[i]
	}
	return containerRecord{Status: gondola.ContainerStatus{Name: name}}
}

// change records a change of one container, with the notes that go with it. Nothing is recorded if f returns false.
func (l *ledger) change(name string, durable bool, f func(*containerRecord) bool, notes ...gondola.Note) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.index(name)
	if i < 0 {
		return
	}
	c := l.containers[i]
	if !f(&c) {
		return
	}
	for k := range notes {
		notes[k].Container = name
	}
	l.commitLocked(entry{Containers: []containerRecord{c}, Notes: notes}, durable)
}

// status returns the Status, and a channel that closes when there is a newer one.
func (l *ledger) status() (Status, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{Version: l.version, Seq: l.seq, Phase: l.phase, Message: l.message, SandboxID: l.sandbox.ID, StartedAt: l.sandbox.StartedAt, Size: l.sandbox.Size,
		Resumed: l.sandbox.Resumed, Cold: l.sandbox.Cold,
		Notes: slices.Clone(l.recent), Checks: slices.Clone(l.checks), Containers: make([]gondola.ContainerStatus, len(l.containers))}
	for i, c := range l.containers {
		s.Containers[i] = c.Status
	}
	return s, l.changed
}

// await waits until f is true of the containers, done closes, or the ledger is closed, and says whether it is.
func (l *ledger) await(done <-chan struct{}, f func() bool) bool {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if f() {
			return true
		}
		select {
		case <-changed:
		case <-done:
			return f()
		case <-l.closed:
			return f()
		}
	}
}
