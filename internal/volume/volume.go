// Package volume keeps the volumes of one host: disks of a fixed size that outlive the Machines that use them.
//
// A volume is a sparse file with an ext4 in it, mounted by way of a loop device while somebody uses it (Image); on a host that has no loop
// devices it is a plain directory, whose size nothing enforces (Directory). A raw volume is one file in such an ext4 or directory. Everything of a volume lies in <dir>/<id>, of a snapshot in
// <dir>/<snapshot>, so that it is found again with or without a record. Every method can be done again after a crash; what was fsynced in a
// volume is on the host's disk. The package knows no Machines and keeps no record of its own but the size.
package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

// Kind is how volumes are kept.
type Kind string

const (
	Image     Kind = "image"     // a file with an ext4 on a loop device
	Directory Kind = "directory" // its size is counted, but not enforced
)

// Config says where volumes lie.
type Config struct {
	Dir     string // Required.
	Kind    Kind   // If empty, Image where that works, which is tried.
	Reserve int64  // bytes of the disk that volumes leave free; if zero, a tenth, at least 512 MiB and at most 10 GiB
	Log     *slog.Logger
}

// Store is the volumes of a host. Methods may be called at the same time; those about one volume wait for each other.
type Store struct {
	dir     string
	kind    Kind
	why     string // why the kind is not Image
	reserve int64
	log     *slog.Logger

	room   sync.Mutex // held while a size is promised
	mu     sync.Mutex
	locks  map[string]chan struct{} // of volumes and snapshots: one token each
	copies map[string]int64         // image that is being made as a copy → bytes that it will take
	walks  map[string]walked        // of directories
}

// meta is the file "volume" or "snapshot" beside the data. It is the last that is written of what is made, the first that is removed.
type meta struct {
	Owner  string `json:"owner"` // the worker whose it is
	Kind   Kind   `json:"kind"`
	Size   int64  `json:"size"` // bytes
	Raw    bool   `json:"raw,omitempty"`
	Shared int64  `json:"shared,omitempty"` // bytes that a volume had in common with what it was copied from, when it was made
}

// own is how much of what a volume has taken of the disk counts as its own: what it shares is its source's, and may have to be parted at any time.
func (m meta) own(taken int64) int64 { return taken - min(taken, m.Shared) }

// imageSize is how large the image of a volume is: that of a raw one has room for the file and for what ext4 keeps beside it.
func (m meta) imageSize() int64 {
	if !m.Raw {
		return m.Size
	}
	return m.Size + m.Size/64 + rawSpare
}

// Usage is how full a volume is.
type Usage struct {
	BlockSize, Blocks, BlocksFree, BlocksAvail int64
	TotalBytes, UsedBytes                      int64 // of the file system, as its users see it
	FSType                                     string
}

// Open prepares the directory and finds out how volumes can be kept here. A file system that a crash left frozen is thawed.
func Open(cfg Config) (*Store, error) {
	s := &Store{dir: cfg.Dir, kind: cfg.Kind, reserve: cfg.Reserve, log: cfg.Log, locks: map[string]chan struct{}{}, copies: map[string]int64{},
		walks: map[string]walked{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	real, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	s.dir = real
	if s.kind == "" {
		s.kind = Image
		if err := tryImages(s.dir); err != nil {
			s.kind, s.why = Directory, err.Error()
			s.log.Warn("volumes are plain directories on this host: their sizes are counted, but not enforced", "why", err)
		}
	}
	if err := s.thawAll(); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	return s, s.sweep()
}

// Kind says how new volumes are kept, and if as directories, why.
func (s *Store) Kind() (kind Kind, why string) { return s.kind, s.why }

// names begin with these while a thing is made or removed.
const unfinished = ".new-"

// sweep removes what a crash left half made or half removed.
func (s *Store) sweep() error {
	old, err := filepath.Glob(filepath.Join(s.dir, unfinished+"*"))
	if err != nil {
		return err
	}
	for _, d := range old {
		if err := removeAll(d); err != nil {
			return fmt.Errorf("remove what a crash left of a volume: %w", err)
		}
	}
	return nil
}

// removeAll removes a directory and what is mounted in it.
func removeAll(dir string) error {
	if err := unmount(filepath.Join(dir, "mnt")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (s *Store) path(id string) string    { return filepath.Join(s.dir, id) }
func (s *Store) image(id string) string   { return filepath.Join(s.dir, id, "disk") }
func (s *Store) content(id string) string { return filepath.Join(s.dir, id, "mnt") }

// rawFile is the file that a raw volume is, in its contents.
func rawFile(content string) string { return filepath.Join(content, "raw") }

// checkID keeps ids from leading anywhere but to a volume's own place.
func checkID(id string) error {
	if !gondola.IsVolumeID(id) && !gondola.IsSnapshotID(id) {
		return gondola.Errorf(gondola.ErrInvalid, "%q is no id of a volume or snapshot", id)
	}
	return nil
}

// lock waits until nobody else works on a volume or snapshot.
func (s *Store) lock(ctx context.Context, ids ...string) (unlock func(), err error) {
	var held []chan struct{}
	unlock = func() {
		for _, c := range held {
			<-c
		}
	}
	for _, id := range ids {
		if err := checkID(id); err != nil {
			unlock()
			return nil, err
		}
		s.mu.Lock()
		c := s.locks[id]
		if c == nil {
			c = make(chan struct{}, 1)
			s.locks[id] = c
		}
		s.mu.Unlock()
		select {
		case c <- struct{}{}:
			held = append(held, c)
		case <-ctx.Done():
			unlock()
			return nil, gondola.Errorf(gondola.ErrDeadline, "%s is being worked on: %w", id, ctx.Err())
		}
	}
	return unlock, nil
}

// read returns what is known of a volume or snapshot, or ErrNotFound.
func (s *Store) read(id string) (meta, error) {
	var m meta
	b, err := os.ReadFile(filepath.Join(s.path(id), "meta"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, gondola.Errorf(gondola.ErrNotFound, "there is no %s on the disk of this host", id)
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("read %s: %w", id, err)
	}
	return m, nil
}

// write records m beside the data in dir, past a power cut.
func write(dir string, m meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "meta.new")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	failpoint.Hit("volume.meta.written")
	if err := os.Rename(tmp, filepath.Join(dir, "meta")); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// Leftovers lists the volumes and snapshots on the disk that are an owner's.
func (s *Store) Leftovers(owner string) (ids []string, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if checkID(e.Name()) != nil {
			continue
		}
		if m, err := s.read(e.Name()); err == nil && m.Owner == owner {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Room says how much new volumes may take of the disk: what is free, less what is promised to the volumes that are there, or being copied, and
// not taken yet, less a reserve. Snapshots and copies that share blocks with their volume count as what it may yet cost to part them. total is
// how much all volumes may take: what is free, and what they have taken, less the reserve.
func (s *Store) Room() (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	reserve := s.reserve
	if reserve == 0 {
		reserve = max(512<<20, min(int64(st.Blocks)*st.Bsize/10, 10<<30))
	}
	free = int64(st.Bavail)*st.Bsize - reserve
	total = free
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, 0, err
	}
	clones := s.clones()
	for _, e := range entries {
		m, err := s.read(e.Name())
		if err != nil {
			continue // being made or removed
		}
		taken, err := s.taken(e.Name(), m)
		if err != nil {
			continue
		}
		if gondola.IsVolumeID(e.Name()) {
			if clones {
				taken = m.own(taken)
			}
			total += min(m.Size, taken)
			free -= max(0, m.Size-taken)
		} else if clones {
			free -= taken
		}
	}
	return max(free-s.copying(), 0), max(total, 0), nil
}

// promise checks that there is room for more bytes. s.room is held.
func (s *Store) promise(more int64) error {
	free, total, err := s.Room()
	if err != nil {
		return err
	}
	if more > free {
		return gondola.Errorf(gondola.ErrCapacity, "a disk of %s is wanted, %s free of %s", gib(more), gib(free), gib(total))
	}
	return nil
}

func gib(n int64) string {
	s := fmt.Sprintf("%.1f", float64(n)/(1<<30))
	return strings.TrimSuffix(s, ".0") + " GB"
}

// Purge unmounts every volume below dir, thawed first. It leaves the files.
func Purge(dir string) error {
	s := &Store{dir: dir, log: slog.New(slog.DiscardHandler)}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.thawAll(); err != nil {
		return err
	}
	mounts, err := filepath.Glob(filepath.Join(dir, "*", "mnt"))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unmount(m); err != nil {
			return err
		}
	}
	return nil
}
