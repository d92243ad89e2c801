package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// taken is how many bytes of the disk a volume or snapshot has.
func (s *Store) taken(id string, m meta) (int64, error) {
	of := s.image(id)
	if m.Kind == Directory {
		of = s.content(id)
		if !m.Raw {
			return s.takenBelow(of), nil
		}
		of = rawFile(of)
	}
	st, err := os.Stat(of)
	if err != nil {
		return 0, err
	}
	return blocks(st), nil
}

func blocks(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }

// walked is what was found in a directory.
type walked struct {
	taken int64
	until time.Time // it may be told
}

// takenBelow is what everything in a directory takes, as it was some seconds ago at most: a large one needs a while.
func (s *Store) takenBelow(dir string) int64 {
	began := time.Now()
	s.mu.Lock()
	last := s.walks[dir]
	s.mu.Unlock()
	if began.Before(last.until) {
		return last.taken
	}
	var now walked
	seen := map[uint64]bool{} // files with several names
	// What cannot be read, or vanishes while it is looked at, takes nothing.
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		if st := info.Sys().(*syscall.Stat_t); st.Nlink > 1 && !e.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		now.taken += blocks(info)
		return nil
	})
	now.until = time.Now().Add(max(5*time.Second, 10*time.Since(began)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.walks[dir] = now
	return now.taken
}
