package pilot

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gondola"
	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

// maxJournal is the size beyond which a journal is written anew as one entry.
const maxJournal = 1 << 20

// entry is one line of the journal: what changed. Fields that are missing did not. An entry never holds a secret.
type entry struct {
	Seq        uint64            `json:"seq"`
	Version    gondola.Version   `json:"version,omitempty"` // set: everything before it but the run numbers is void
	Phase      Phase             `json:"phase,omitempty"`
	Message    string            `json:"message,omitempty"`
	OOM        bool              `json:"oom,omitempty"` // with Lost: memory was the reason
	Sandbox    *sandboxRecord    `json:"sandbox,omitempty"`
	Stop       *stopRecord       `json:"stop,omitempty"`
	Containers []containerRecord `json:"containers,omitempty"`
	Notes      []gondola.Note    `json:"notes,omitempty"`

	Checks []gondola.CheckStatus `json:"checks,omitempty"` // with Sandbox all of them, else those that changed
}

// sandboxRecord is the sandbox of the moment.
type sandboxRecord struct {
	ID        string        `json:"id"`
	StartedAt time.Time     `json:"started_at"`
	Size      *gondola.Size `json:"size,omitempty"`
	Resumed   bool          `json:"resumed,omitempty"` // it runs on from a snapshot
	Cold      string        `json:"cold,omitempty"`    // why it was started from the beginning although there was a snapshot
}

// stopRecord is a Stop that was asked for, so that the next pilot goes on with it.
type stopRecord struct {
	Signal  gondola.Signal    `json:"signal,omitempty"`
	Timeout *gondola.Duration `json:"timeout,omitempty"`
	At      time.Time         `json:"at"`
}

// containerRecord is what is known of a container beyond its status.
type containerRecord struct {
	Status gondola.ContainerStatus `json:"status"`
	Runs   int                     `json:"runs"`            // runs begun, over all Versions: the next one is number Runs
	Starts int                     `json:"starts"`          // runs begun since the clean slate; all but the first are restarts
	Begun  bool                    `json:"begun"`           // the present run was given to the Runtime and has not been seen to end
	Row    int                     `json:"row"`             // restarts in a row, the one that is due included, for the back-off
	Done   bool                    `json:"done,omitempty"`  // ended for good
	Hooked bool                    `json:"hooked"`          // the post-start hook of the present run is through
	Again  bool                    `json:"again,omitempty"` // the present run is to be ended, and another one begun whatever the policy says

	// Earlier is how the run before that of Status.Last ended, while Status.Last is how the last one did because the container waits.
	Earlier *gondola.ContainerState `json:"earlier,omitempty"`

	// Failed are the ends that led to restarts within the window of the backoff, where restarts are counted that way.
	Failed []time.Time `json:"failed,omitempty"`
}

// retries returns how many restarts count against the policy's limit at a moment: those in a row for Kubernetes, those within the window
// otherwise.
func (c *containerRecord) retries(window time.Duration, now time.Time, kubernetes bool) int {
	if kubernetes {
		return c.Row
	}
	return len(within(c.Failed, window, now))
}

// within returns the times that are less than window before now.
func within(times []time.Time, window time.Duration, now time.Time) []time.Time {
	return slices.DeleteFunc(slices.Clone(times), func(t time.Time) bool { return now.Sub(t) >= window })
}

// wait shows that the container waits for its next run: how the last one ended is past then.
func (c *containerRecord) wait(state gondola.ContainerState) {
	if c.Status.State.Kind == gondola.ContainerExited {
		ended := c.Status.State
		c.Earlier, c.Status.Last = c.Status.Last, &ended
	}
	c.Status.State = state
}

// rest shows that the container waits for no next run: its state is how the last one ended.
func (c *containerRecord) rest() {
	if c.Status.State.Kind == gondola.ContainerWaiting && c.Status.Last != nil {
		c.Status.State, c.Status.Last, c.Earlier = *c.Status.Last, c.Earlier, nil
	}
}

// run is the number of the present or last run.
func (c *containerRecord) run() int { return max(c.Runs-1, 0) }

// journal is an append-only file of entries, one JSON object a line.
type journal struct {
	path string
	f    *os.File
	size int64
	sync bool

	behind bool // an entry was not written, or not to its end: none is written behind it, only all anew
}

// readJournal calls apply with every entry of the file. A last line that was not written to its end is dropped.
func readJournal(path string, apply func(entry)) (size int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read journal: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return size, fmt.Errorf("read journal %s: %w", path, err)
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return size, nil // torn by a power loss: what follows was never acknowledged
		}
		apply(e)
		size += int64(len(line))
	}
}

// openJournal opens the journal in dir for appending behind the first size bytes, which readJournal found whole.
func openJournal(dir string, size int64, sync bool) (*journal, error) {
	path := filepath.Join(dir, "journal")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return &journal{path: path, f: f, size: size, sync: sync}, nil
}

// append writes an entry; with durable it is on disk afterwards. After an error the journal is behind until compact has written it anew, and
// append does nothing: what stood behind half a line would never be read.
func (j *journal) append(e entry, durable bool) (err error) {
	if j.behind {
		return nil
	}
	defer func() { j.behind = err != nil }()
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	failpoint.Hit("pilot.journal.begun")
	n, err := j.f.Write(append(line, '\n'))
	failpoint.Hit("pilot.journal.written")
	j.size += int64(n)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if durable && j.sync {
		if err := j.f.Sync(); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
	}
	return nil
}

// compact replaces the file by one that holds only e.
func (j *journal) compact(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if err := writeFileAtomic(j.path, line, 0o600, j.sync); err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	failpoint.Hit("pilot.journal.compacted")
	j.behind = true // f is no longer the file of that name
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	j.f.Close()
	j.f, j.size, j.behind = f, int64(len(line)), false
	return nil
}

func (j *journal) close() error { return j.f.Close() }

// writeFileAtomic makes path hold data, or leaves what was there.
func writeFileAtomic(path string, data []byte, mode os.FileMode, sync bool) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return os.Chmod(path, mode)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return durable.SyncDir(filepath.Dir(path))
}
