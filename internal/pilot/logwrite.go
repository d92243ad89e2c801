package pilot

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gondola/internal/failpoint"
)

// Logs of a container lie in Dir/logs/<container>: "<run>.log" is being written, "<run>.log.1" and "<run>.log.2" hold what came before, the
// higher the older, "<run>.new" is to be the next one, and "<run>.end" is there once nothing more will come. Of runs, the last two are kept. Lines
// are in the CRI format:
// "<RFC 3339 time> <stdout|stderr> <F|P> <text>", P for a piece of a line that goes on in the next one of its stream.
const (
	logLine     = 16 << 10 // text of a line beyond this is split into pieces
	logRotate   = 10 << 20 // default size at which a file is rotated
	logRotated  = 2        // rotated files kept beside the current one
	logRunsKept = 2
)

// logFile writes the log of one run of a container. The streams write at the same time.
type logFile struct {
	base   string // path without ".log"
	rotate int64

	mu      sync.Mutex
	f       *os.File
	size    int64
	pending [2][]byte // stdout, stderr: text without its newline yet
	buf     []byte
	dropped int64 // bytes that could not be written (a full disk); the container goes on
}

func logDir(dir, container string) string { return filepath.Join(dir, "logs", container) }

// openLogFile opens the log of a run for appending, which may be one that an earlier pilot began, and removes those of runs too old to keep.
func openLogFile(dir, container string, run int, rotate int64) (*logFile, error) {
	d := logDir(dir, container)
	if err := os.MkdirAll(d, 0o700); err != nil {
		return nil, fmt.Errorf("open log of container %s: %w", container, err)
	}
	if rotate == 0 {
		rotate = logRotate
	}
	l := &logFile{base: filepath.Join(d, strconv.Itoa(run)), rotate: rotate}
	f, err := os.OpenFile(l.base+".log", os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of container %s: %w", container, err)
	}
	l.f = f
	if l.size, err = wholeLines(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("open log of container %s: %w", container, err)
	}
	return l, removeOldRuns(d, run)
}

// wholeLines cuts off a last line that a crash of the host left unfinished, and returns the size.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	n := min(info.Size(), 2*logLine)
	tail := make([]byte, n)
	if _, err := f.ReadAt(tail, info.Size()-n); err != nil {
		return 0, err
	}
	size := info.Size() - n + int64(bytes.LastIndexByte(tail, '\n')) + 1
	if size == info.Size() {
		return size, nil
	}
	return size, f.Truncate(size)
}

// removeOldRuns keeps the logs of run and of the runs just before it, and marks those before it as ended.
func removeOldRuns(dir string, run int) error {
	runs, err := logRuns(dir)
	if err != nil {
		return err
	}
	slices.Reverse(runs)
	for i, r := range runs {
		base := filepath.Join(dir, strconv.Itoa(r))
		if i >= logRunsKept {
			for _, suffix := range []string{".log", ".new", ".log.1", ".log.2", ".end"} {
				os.Remove(base + suffix)
			}
		} else if r < run {
			endLog(base)
		}
	}
	return nil
}

// logRuns lists the runs that have a log, in order: also one whose log is just being rotated, or was when its pilot died.
func logRuns(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var runs []int
	for _, e := range entries {
		name, suffix, _ := strings.Cut(e.Name(), ".")
		if n, err := strconv.Atoi(name); err == nil && (suffix == "log" || suffix == "new") {
			runs = append(runs, n)
		}
	}
	slices.Sort(runs)
	return slices.Compact(runs), nil
}

func endLog(base string) {
	if f, err := os.OpenFile(base+".end", os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		f.Close()
	}
}

var streamNames = [2]string{"stdout", "stderr"}

// write adds what came out of stream 0 (stdout) or 1 (stderr).
func (l *logFile) write(stream int, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var stamp [len(logTime)]byte
	now := time.Now().UTC().AppendFormat(stamp[:0], logTime) // once for all: it costs more than the rest of a line
	l.buf = l.buf[:0]
	for len(p) > 0 {
		room := logLine - len(l.pending[stream])
		i := bytes.IndexByte(p, '\n')
		switch {
		case i >= 0 && i <= room:
			l.lineLocked(now, stream, 'F', p[:i])
			p = p[i+1:]
		case len(p) >= room:
			l.lineLocked(now, stream, 'P', p[:room])
			p = p[room:]
		default:
			l.pending[stream] = append(l.pending[stream], p...)
			p = nil
		}
		if len(l.buf) > 64<<10 {
			l.flushLocked()
		}
	}
	l.flushLocked()
}

// lineLocked puts what is pending of the stream, and text, into the buffer as one line.
func (l *logFile) lineLocked(now []byte, stream int, tag byte, text []byte) {
	l.buf = append(l.buf, now...)
	l.buf = append(l.buf, ' ')
	l.buf = append(l.buf, streamNames[stream]...)
	l.buf = append(l.buf, ' ', tag, ' ')
	l.buf = append(l.buf, l.pending[stream]...)
	l.buf = append(l.buf, text...)
	l.buf = append(l.buf, '\n')
	l.pending[stream] = l.pending[stream][:0]
}

// logTime is RFC 3339 with all nanoseconds, so that lines sort.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (l *logFile) flushLocked() {
	if len(l.buf) == 0 {
		return
	}
	if l.size > 0 && l.size+int64(len(l.buf)) > l.rotate {
		l.rotateLocked()
	}
	n, err := l.f.Write(l.buf)
	l.size += int64(n)
	if err != nil {
		l.dropped += int64(len(l.buf) - n)
		if n > 0 && l.f.Truncate(l.size-int64(n)) == nil { // no half lines
			l.size -= int64(n)
		}
	}
	l.buf = l.buf[:0]
}

// rotateLocked renames the files one further and begins a new one. A reader that follows keeps the old file open and reads it to its end.
func (l *logFile) rotateLocked() {
	f, err := os.OpenFile(l.base+".new", os.O_CREATE|os.O_RDWR|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return // go on in the file there is
	}
	for i := logRotated; i > 1; i-- {
		os.Rename(fmt.Sprintf("%s.log.%d", l.base, i-1), fmt.Sprintf("%s.log.%d", l.base, i))
	}
	os.Rename(l.base+".log", l.base+".log.1")
	failpoint.Hit("pilot.log.shifted")
	os.Rename(l.base+".new", l.base+".log")
	failpoint.Hit("pilot.log.rotated")
	l.f.Close()
	l.f, l.size = f, 0
}

// close writes what is pending. With ended, nothing more will come of this run, and readers that follow stop.
func (l *logFile) close(ended bool) (dropped int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = l.buf[:0]
	for stream := range l.pending {
		if len(l.pending[stream]) > 0 {
			l.lineLocked(time.Now().UTC().AppendFormat(nil, logTime), stream, 'P', nil)
		}
	}
	l.flushLocked()
	l.f.Close()
	if ended {
		endLog(l.base)
	}
	return l.dropped
}

// tail returns the end of the log for a termination message: at most 80 lines and 2048 bytes, text only (as the kubelet has it).
func (l *logFile) tail() string {
	data, err := os.ReadFile(l.base + ".log")
	if err != nil {
		return ""
	}
	if over := len(data) - 1<<20; over > 0 {
		data = data[over:]
	}
	lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	lines = lines[max(0, len(lines)-80):]
	var out []byte
	for _, raw := range lines {
		line, ok := parseLogLine(raw)
		if !ok {
			continue
		}
		out = append(out, line.text...)
		if !line.partial {
			out = append(out, '\n')
		}
	}
	return string(out[max(0, len(out)-2048):])
}
