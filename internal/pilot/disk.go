package pilot

import (
	"context"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"gondola"
)

const (
	diskFresh   = 10 * time.Second // for how long a measurement holds at least
	diskShare   = 50               // and for how many times as long as it took: so measuring costs 2 % of a core at most
	diskEntries = 500_000          // files looked at; more than that is told as "at least"
)

// DiskMeter measures what directories take on disk by walking through them, seldom enough to cost nothing. Its zero value is ready.
type DiskMeter struct {
	mu   sync.Mutex
	last map[string]measured // by directory
}

type measured struct {
	disk  gondola.DiskStats
	until time.Time
}

// Measure returns what the files below dir take, that of dir included; nothing where it is not there. Files with several names count once.
func (d *DiskMeter) Measure(ctx context.Context, dir string) gondola.DiskStats {
	d.mu.Lock()
	defer d.mu.Unlock() // so that several who ask walk once
	began := time.Now()
	if m, ok := d.last[dir]; ok && began.Before(m.until) {
		return m.disk
	}
	disk := walk(ctx, dir)
	if ctx.Err() != nil {
		return disk
	}
	if d.last == nil {
		d.last = map[string]measured{}
	}
	for dir, m := range d.last {
		if began.Sub(m.until) > time.Hour { // of a run that has ended
			delete(d.last, dir)
		}
	}
	took := time.Since(began)
	d.last[dir] = measured{disk, began.Add(took + max(diskFresh, diskShare*took))}
	return disk
}

func walk(ctx context.Context, dir string) (out gondola.DiskStats) {
	type file struct{ dev, ino uint64 }
	seen := map[file]bool{} // files with several names
	// What cannot be read, or vanishes while it is looked at, takes nothing.
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if f := (file{uint64(st.Dev), st.Ino}); st.Nlink > 1 && !e.IsDir() {
			if seen[f] {
				return nil
			}
			seen[f] = true
		}
		out.Used += st.Blocks * 512
		out.Inodes++
		if out.Inodes >= diskEntries || ctx.Err() != nil {
			out.Partial = true
			return fs.SkipAll
		}
		return nil
	})
	return out
}

// onFileSystem adds what there is on the file system of dir.
func onFileSystem(d gondola.DiskStats, dir string) gondola.DiskStats {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) == nil {
		d.Available, d.Total = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
		d.InodesAvailable, d.InodesTotal = int64(st.Ffree), int64(st.Files)
	}
	return d
}
