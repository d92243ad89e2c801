package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
)

const (
	logFile = "gondola.log"
	maxLog  = 16 << 20 // bytes, after which a new file is begun; one old one is kept
)

// log is the daemon's log file. Once it is full it becomes gondola.log.1 and a new one is begun.
type log struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File
	size int64
}

// openLog opens the log of a data directory to append to it.
func openLog(data string, max int64) (*log, error) {
	l := &log{path: filepath.Join(data, logFile), max: max}
	return l, l.open()
}

func (l *log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, fi.Size()
	return nil
}

// Write appends one record. Where no new file can be begun the old one goes on: a log never stops the daemon.
func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(b)) > l.max {
		old := l.file
		if err := os.Rename(l.path, l.path+".1"); err == nil {
			if err := l.open(); err == nil {
				old.Close()
			}
		}
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	return n, err
}

// Close closes the file.
func (l *log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
