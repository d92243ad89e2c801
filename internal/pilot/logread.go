package pilot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"gondola"
)

// OpenLog reads a container's log from dir, a Spec.Dir, whether a pilot runs or not and in any process. opts.Container must be a name. The
// reader ends where the log ended when it was opened, however fast it grows; with Follow when the run that it began with has ended, its log is removed, or ctx ends. A log that is
// not there yet is empty, and with Follow waited for. Previous is of the run whose end the Status tells as the last; where there is none it is
// gondola.ErrNotFound.
func OpenLog(ctx context.Context, dir string, opts gondola.LogOptions) (io.ReadCloser, error) {
	d := logDir(dir, opts.Container)
	runs, err := logRuns(d)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if opts.Previous {
		if runs, err = endedRuns(dir, opts.Container, runs); err != nil {
			return nil, err
		}
		if len(runs) == 0 {
			return nil, gondola.Errorf(gondola.ErrNotFound, "previous terminated container %q not found", opts.Container)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &logReader{ctx: ctx, cancel: cancel, dir: d, opts: opts, limit: opts.LimitBytes}
	if len(runs) > 0 {
		r.run = runs[len(runs)-1]
	}
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// endedRuns returns those of runs that have ended before the present one, in order. While the next run is awaited, there is no present one.
func endedRuns(dir, container string, runs []int) ([]int, error) {
	l, _, err := readLedger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	rec := l.container(container)
	present := rec.run()
	if !rec.Begun && rec.Status.State.Kind == gondola.ContainerWaiting {
		present = rec.Runs
	}
	return slices.DeleteFunc(runs, func(run int) bool { return run >= present }), nil
}

// logReader is a log as asked for. Its Read is the only place where work is done.
type logReader struct {
	ctx    context.Context
	cancel context.CancelFunc
	dir    string
	run    int
	opts   gondola.LogOptions
	limit  int64

	mu    sync.Mutex // held by Read and Close
	files []*os.File // the rest to be read, oldest first; the last one grows
	end   int64      // size of the last one when it was opened
	in    *bufio.Reader
	part  []byte // begin of a line that is not written to its end
	out   bytes.Buffer
	watch *logWatch
	bol   [2]bool // with Timestamps: the stream is inside a line
	err   error
}

func (r *logReader) base() string { return filepath.Join(r.dir, strconv.Itoa(r.run)) }

// open opens the files of the run, oldest first, and skips to what Tail wants.
func (r *logReader) open() error {
	for try := 0; ; try++ {
		for i := logRotated; i >= 0; i-- {
			name := r.base() + ".log"
			if i > 0 {
				name += "." + strconv.Itoa(i)
			}
			f, err := os.Open(name)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			r.files = append(r.files, f)
		}
		if !r.twice() || try > 10 {
			break
		}
		r.closeFiles() // rotated while we looked
	}
	if len(r.files) == 0 {
		r.in = bufio.NewReader(bytes.NewReader(nil))
		return nil
	}
	info, err := r.files[len(r.files)-1].Stat()
	if err != nil {
		return err
	}
	r.end = info.Size()
	if r.opts.Tail != nil {
		if err := r.skipToTail(*r.opts.Tail); err != nil {
			return err
		}
	}
	r.in = bufio.NewReaderSize(nil, 32<<10)
	return r.readFirst()
}

// readFirst has in read the first file from where it stands: the last one without Follow up to the end that it had, so that a reader who is
// slower than the container comes to an end.
func (r *logReader) readFirst() error {
	f := r.files[0]
	if r.opts.Follow || len(r.files) > 1 {
		r.in.Reset(f)
		return nil
	}
	at, err := f.Seek(0, io.SeekCurrent)
	r.in.Reset(io.LimitReader(f, r.end-at))
	return err
}

// twice says whether the same file was opened under two names, or the newest one no longer has its name.
func (r *logReader) twice() bool {
	var infos []os.FileInfo
	for _, f := range r.files {
		info, err := f.Stat()
		if err != nil {
			return true
		}
		for _, seen := range infos {
			if os.SameFile(info, seen) {
				return true
			}
		}
		infos = append(infos, info)
	}
	return len(infos) > 0 && !r.current(infos[len(infos)-1])
}

// current says whether info is of the file that is written to.
func (r *logReader) current(info os.FileInfo) bool {
	now, err := os.Stat(r.base() + ".log")
	return err != nil || os.SameFile(now, info)
}

func (r *logReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.out.Len() == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.err = r.next()
	}
	n, _ := r.out.Read(p)
	return n, nil
}

// next puts one more line into out, waiting for it with Follow.
func (r *logReader) next() error {
	if r.ctx.Err() != nil {
		return io.EOF
	}
	ended := r.ended() // looked up before the read: what was written before the end is read
	raw, err := r.in.ReadSlice('\n')
	r.part = append(r.part, raw...)
	switch {
	case err == nil:
		line := r.part
		r.part = r.part[:0]
		return r.emit(line[:len(line)-1])
	case errors.Is(err, bufio.ErrBufferFull):
		return nil
	case !errors.Is(err, io.EOF):
		return err
	}
	if len(r.files) > 1 {
		r.files[0].Close()
		r.files = r.files[1:]
		return r.readFirst()
	}
	if !r.opts.Follow {
		return io.EOF
	}
	if more, err := r.rotated(); more || err != nil {
		return err
	}
	if ended {
		return io.EOF
	}
	return r.wait()
}

// rotated opens the file that has taken the place of the one that was read to its end.
func (r *logReader) rotated() (bool, error) {
	var info os.FileInfo
	if len(r.files) > 0 {
		var err error
		if info, err = r.files[0].Stat(); err != nil {
			return false, err
		}
		if r.current(info) {
			return false, nil
		}
		// The writer may have added to the old file between our read and its rotation.
		if info, err := r.files[0].Stat(); err == nil {
			if at, err := r.files[0].Seek(0, io.SeekCurrent); err == nil && at < info.Size() {
				return true, nil
			}
		}
	} else if runs, err := logRuns(r.dir); err == nil && len(runs) > 0 {
		r.run = runs[0]
	} else {
		return false, nil
	}
	old := r.files
	r.files = nil
	if err := r.reopen(info); err != nil {
		r.files = old
		return false, err
	}
	if len(r.files) == 0 { // rotated again while we looked, or removed: ended will know
		r.files = old
		return false, nil
	}
	for _, f := range old {
		f.Close()
	}
	r.in.Reset(r.files[0])
	return true, nil
}

// reopen opens every file newer than the one of info.
func (r *logReader) reopen(info os.FileInfo) error {
	tail := r.opts.Tail
	r.opts.Tail = nil
	defer func() { r.opts.Tail = tail }()
	in := r.in
	err := r.open()
	r.in = in
	if err != nil {
		return err
	}
	for i, f := range r.files {
		if now, err := f.Stat(); err == nil && info != nil && os.SameFile(now, info) {
			for _, old := range r.files[:i+1] {
				old.Close()
			}
			r.files = r.files[i+1:]
			break
		}
	}
	return nil
}

// ended says whether nothing more will be written.
func (r *logReader) ended() bool {
	if !r.opts.Follow {
		return true
	}
	if _, err := os.Stat(r.base() + ".end"); err == nil {
		return true
	}
	if len(r.files) == 0 {
		return false
	}
	for _, suffix := range []string{".log", ".new", ".log"} { // the second one becomes the first while it is rotated
		if _, err := os.Stat(r.base() + suffix); !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}

// wait waits for a change in the directory; once a second it looks anyway, for what inotify does not tell (a removed directory, no watches
// left on this host).
func (r *logReader) wait() error {
	if r.watch == nil {
		r.watch = newLogWatch(r.dir)
		return nil // look again: what happened before the watch was not told
	}
	patience := time.Second
	if len(r.files) == 0 {
		patience = 50 * time.Millisecond // there may be no directory to watch yet
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-r.watch.changed:
	case <-timer.C:
		if r.watch.dead() {
			r.watch.close()
			r.watch = nil
		}
	case <-r.ctx.Done():
	}
	return nil
}

// emit formats one stored line into out.
func (r *logReader) emit(raw []byte) error {
	line, ok := parseLogLine(raw)
	if !ok || r.opts.Stream != "" && line.stream != r.opts.Stream {
		return nil
	}
	if !r.opts.Since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(line.time)); err == nil && at.Before(r.opts.Since) {
			return nil
		}
	}
	if r.opts.CRI {
		r.out.Write(raw)
		r.out.WriteByte('\n')
	} else {
		r.emitText(line)
	}
	if r.opts.LimitBytes > 0 {
		if over := int64(r.out.Len()) - r.limit; over >= 0 {
			r.out.Truncate(r.out.Len() - int(over))
			return io.EOF
		}
		r.limit -= int64(r.out.Len())
	}
	return nil
}

func (r *logReader) emitText(line logText) {
	stream := 0
	if line.stream == "stderr" {
		stream = 1
	}
	if r.opts.Timestamps && !r.bol[stream] {
		r.out.Write(line.time)
		r.out.WriteByte(' ')
	}
	r.out.Write(line.text)
	if !line.partial {
		r.out.WriteByte('\n')
	}
	r.bol[stream] = line.partial
}

// Close ends the reader; a Read that waits returns io.EOF.
func (r *logReader) Close() error {
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeFiles()
	if r.watch != nil {
		r.watch.close()
		r.watch = nil
	}
	r.err = io.EOF
	return nil
}

func (r *logReader) closeFiles() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}

// logText is a stored line in its parts.
type logText struct {
	time    []byte
	stream  string
	partial bool
	text    []byte
}

// parseLogLine reads a line in the CRI format, without its newline.
func parseLogLine(raw []byte) (logText, bool) {
	at, rest, ok1 := bytes.Cut(raw, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 || len(tag) != 1 {
		return logText{}, false
	}
	line := logText{time: at, partial: tag[0] == 'P', text: text}
	switch string(stream) {
	case "stdout":
		line.stream = "stdout"
	case "stderr":
		line.stream = "stderr"
	default:
		return logText{}, false
	}
	return line, true
}
