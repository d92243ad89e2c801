package pilot

import (
	"os"

	"golang.org/x/sys/unix"
)

// logWatch tells of changes in a directory, by inotify where there is some.
type logWatch struct {
	f       *os.File
	changed chan struct{} // has a token when something changed; never, without inotify
	done    chan struct{} // closed when the watch tells nothing more
}

// newLogWatch watches dir. It always returns one, which may be dead.
func newLogWatch(dir string) *logWatch {
	w := &logWatch{changed: make(chan struct{}, 1), done: make(chan struct{})}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		close(w.done)
		return w
	}
	w.f = os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		close(w.done)
		return w
	}
	go w.read() // ends with close
	return w
}

func (w *logWatch) read() {
	defer close(w.done)
	buf := make([]byte, 4096)
	for {
		if _, err := w.f.Read(buf); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *logWatch) dead() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *logWatch) close() {
	if w.f != nil {
		w.f.Close()
	}
}
