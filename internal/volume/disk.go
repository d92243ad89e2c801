package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

// New says what volume to create.
type New struct {
	ID     string
	Owner  string // the worker whose it is
	Size   int64  // bytes
	Source string // a snapshot or volume of which it is a copy; if empty, it is empty
	FSType string // gondola.VolumeFSRaw or VolumeFSType; if empty, that of the source, else VolumeFSType
}

// Create makes a volume, or finds it made. ErrCapacity if the disk has no room for it.
func (s *Store) Create(ctx context.Context, v New) error {
	ids := []string{v.ID}
	if v.Source != "" {
		ids = append(ids, v.Source)
	}
	unlock, err := s.lock(ctx, ids...)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.read(v.ID); !errors.Is(err, gondola.ErrNotFound) {
		return err // it is there
	}
	m := meta{Owner: v.Owner, Kind: s.kind, Size: v.Size, Raw: v.FSType == gondola.VolumeFSRaw}
	if v.Source != "" {
		of, err := s.read(v.Source)
		if err != nil {
			return err
		}
		if of.Kind == Directory {
			return errDirectory
		}
		if v.FSType != "" && v.FSType != of.fsType() {
			return gondola.Errorf(gondola.ErrInvalid, "fstype %s: %s, of which it is to be a copy, is %s", v.FSType, v.Source, of.fsType())
		}
		m.Kind, m.Size, m.Raw = of.Kind, max(v.Size, of.Size), of.Raw
	}
	dir, err := os.MkdirTemp(s.dir, unfinished)
	if err != nil {
		return err
	}
	defer removeAll(dir) // nothing once it has its name
	if m.Kind == Directory {
		mnt := filepath.Join(dir, "mnt")
		err = os.Mkdir(mnt, 0o777)
		err = errors.Join(err, os.Chmod(mnt, 0o777)) // past the umask
		if err == nil && m.Raw {
			err = enlargeRaw(mnt, m.Size)
		}
	} else {
		m.Shared, err = s.fill(ctx, dir, v.Source, m)
	}
	if err == nil {
		failpoint.Hit("volume.create.filled")
		err = s.keep(dir, v.ID, m)
		failpoint.Hit("volume.create.kept")
	}
	if err != nil {
		return fmt.Errorf("make volume %s: %w", v.ID, err)
	}
	return nil
}

// fill makes the image of a new volume in dir, and returns how many bytes it shares with its source.
func (s *Store) fill(ctx context.Context, dir, source string, m meta) (shared int64, err error) {
	image, mnt := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	if source == "" {
		err = format(ctx, image, m)
	} else {
		_, shared, err = s.copyWhole(ctx, source, image)
	}
	if err != nil {
		return 0, err
	}
	if err := enlargeImage(image, m.imageSize()); err != nil {
		return 0, err
	}
	failpoint.Hit("volume.create.formatted")
	if err := mountWhole(ctx, image, mnt); err != nil {
		return 0, err
	}
	failpoint.Hit("volume.create.mounted")
	defer unmount(mnt)
	if source == "" {
		if err := settle(mnt); err != nil {
			return 0, err
		}
	}
	if m.Raw {
		if err := enlargeRaw(mnt, m.Size); err != nil {
			return 0, err
		}
	}
	return shared, unmount(mnt)
}

// keep gives what was made in dir its name, if the disk has room for it: from then on it exists.
func (s *Store) keep(dir, id string, m meta) error {
	s.room.Lock()
	defer s.room.Unlock()
	var taken unix.Stat_t
	if m.Kind == Image {
		if err := unix.Stat(filepath.Join(dir, "disk"), &taken); err != nil {
			return err
		}
	}
	if err := s.promise(m.Size - m.own(taken.Blocks*512)); err != nil {
		return err
	}
	if err := write(dir, m); err != nil {
		return err
	}
	if err := os.Rename(dir, s.path(id)); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// errDirectory is the answer of a host whose volumes are directories.
var errDirectory = gondola.Errorf(gondola.ErrUnsupported, "volumes of this host are plain directories, which cannot be copied as they are at one moment: "+
	"give the host loop devices and e2fsprogs")

// copyWhole copies the image of a snapshot or volume, as after a power cut of this moment, and returns the bytes that it takes, and how many of
// them it shares. ErrCapacity if the disk has no room for it.
func (s *Store) copyWhole(ctx context.Context, id, to string) (taken, shared int64, err error) {
	done, err := s.roomForCopy(id, to)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	mnt := s.content(id)
	mounted, err := isMounted(mnt)
	if err != nil {
		return 0, 0, err
	}
	if mounted {
		thaw, err := freeze(mnt)
		if err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, thaw()) }()
	}
	failpoint.Hit("volume.snapshot.frozen")
	return copyImage(ctx, s.image(id), to)
}

// Mount is how a volume is mounted.
type Mount struct {
	Group      *int64 // as gondola.VolumeMountExtension has it
	OnMismatch bool
}

// Mount makes the contents of a volume visible at the path that it returns: a directory, or the file that a raw volume is. What is mounted already stays.
func (s *Store) Mount(ctx context.Context, id string, how Mount) (path string, err error) {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	m, err := s.read(id)
	if err != nil {
		return "", err
	}
	path = s.content(id)
	if m.Kind == Image {
		err = enlargeImage(s.image(id), m.imageSize()) // an extension that was cut short
		if err == nil {
			failpoint.Hit("volume.mount.begun")
			err = mountWhole(ctx, s.image(id), path)
			failpoint.Hit("volume.mount.mounted")
		}
	}
	if err == nil && m.Raw {
		err = enlargeRaw(path, m.Size)
		path = rawFile(path)
	}
	if err == nil && how.Group != nil {
		err = give(path, *how.Group, how.OnMismatch)
	}
	if err != nil {
		return "", fmt.Errorf("mount volume %s: %w", id, err)
	}
	return path, nil
}

// Unmount undoes Mount. What was written is on the disk when it returns.
func (s *Store) Unmount(ctx context.Context, id string) error {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return unmount(s.content(id))
}

// Extend makes a volume larger, in use or not. One that is as large is left alone. Its user sees the new size at once; or, where this process
// may not have that done (see growMounted), later: after the next Mount.
func (s *Store) Extend(ctx context.Context, id string, size int64) (later bool, err error) {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	m, err := s.read(id)
	if err != nil {
		return false, err
	}
	if m.Size < size {
		if err := s.enlarge(id, &m, size); err != nil {
			return false, err
		}
	}
	dir := s.content(id)
	if m.Kind == Directory {
		if m.Raw {
			err = enlargeRaw(dir, m.Size)
		}
		return false, err
	}
	mounted, err := isMounted(dir)
	if err == nil {
		failpoint.Hit("volume.extend.recorded")
		err = enlargeImage(s.image(id), m.imageSize())
		failpoint.Hit("volume.extend.enlarged")
	}
	if err == nil && mounted {
		if err = growMounted(s.image(id), dir); errors.Is(err, unix.EPERM) {
			return true, nil
		}
		if err == nil && m.Raw {
			err = enlargeRaw(dir, m.Size)
		}
	}
	if err != nil {
		return false, fmt.Errorf("extend volume %s: %w", id, err)
	}
	return false, nil
}

// enlarge promises the room and writes that down.
func (s *Store) enlarge(id string, m *meta, size int64) error {
	s.room.Lock()
	defer s.room.Unlock()
	if err := s.promise(size - m.Size); err != nil {
		return err
	}
	m.Size = size
	return write(s.path(id), *m)
}

// Usage says how full a volume is.
func (s *Store) Usage(id string) (Usage, error) {
	if err := checkID(id); err != nil {
		return Usage{}, err
	}
	m, err := s.read(id)
	if err != nil {
		return Usage{}, err
	}
	if m.Raw {
		return s.rawUsage(id, m)
	}
	if m.Kind == Directory {
		return Usage{FSType: gondola.VolumeFSDirectory, BlockSize: 4096, Blocks: m.Size / 4096, TotalBytes: m.Size}, nil
	}
	if mounted, err := isMounted(s.content(id)); err == nil && mounted {
		var st unix.Statfs_t
		if err := unix.Statfs(s.content(id), &st); err == nil {
			return Usage{FSType: gondola.VolumeFSType, BlockSize: st.Bsize, Blocks: int64(st.Blocks), BlocksFree: int64(st.Bfree), BlocksAvail: int64(st.Bavail),
				TotalBytes: int64(st.Blocks) * st.Bsize, UsedBytes: int64(st.Blocks-st.Bfree) * st.Bsize}, nil
		}
	}
	sb, err := readSuper(s.image(id))
	if err != nil {
		return Usage{}, err
	}
	blocks := sb.blocks - sb.overhead
	return Usage{FSType: gondola.VolumeFSType, BlockSize: sb.blockSize, Blocks: blocks, BlocksFree: sb.free, BlocksAvail: sb.free,
		TotalBytes: blocks * sb.blockSize, UsedBytes: (blocks - sb.free) * sb.blockSize}, nil
}

// Snapshot makes a copy of a volume as it is now, as after a power cut, or finds it made. While an image that is mounted is copied, those who
// write to it wait: for a moment where the disk can share blocks, else as long as the copy takes.
func (s *Store) Snapshot(ctx context.Context, id, snapshot string) (size, volumeSize int64, err error) {
	unlock, err := s.lock(ctx, id, snapshot)
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	if m, err := s.read(snapshot); err == nil {
		var st unix.Stat_t
		err := unix.Stat(s.image(snapshot), &st)
		return st.Blocks * 512, m.Size, err
	}
	m, err := s.read(id)
	if err != nil {
		return 0, 0, err
	}
	if m.Kind == Directory {
		return 0, 0, errDirectory
	}
	dir, err := os.MkdirTemp(s.dir, unfinished)
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	failpoint.Hit("volume.snapshot.begun")
	taken, _, err := s.copyWhole(ctx, id, filepath.Join(dir, "disk"))
	failpoint.Hit("volume.snapshot.copied")
	if err == nil {
		err = write(dir, m)
	}
	if err == nil {
		err = os.Rename(dir, s.path(snapshot))
	}
	if err == nil {
		err = durable.SyncDir(s.dir)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("copy volume %s: %w", id, err)
	}
	failpoint.Hit("volume.snapshot.kept")
	return taken, m.Size, nil
}

// roomForCopy reserves what a copy of what is in a volume now takes of the disk, until done is called.
func (s *Store) roomForCopy(id, to string) (done func(), err error) {
	var st unix.Stat_t
	if err := unix.Stat(s.image(id), &st); err != nil {
		return nil, err
	}
	s.room.Lock()
	defer s.room.Unlock()
	if err := s.promise(st.Blocks * 512); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copies[to] = st.Blocks * 512
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.copies, to)
	}, nil
}

// copying is what the copies that are being made will take of the disk beyond what they have.
func (s *Store) copying() (bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for file, size := range s.copies {
		var has unix.Stat_t
		if err := unix.Stat(file, &has); err != nil {
			has.Blocks = 0 // it is not begun
		}
		bytes += max(0, size-has.Blocks*512)
	}
	return bytes
}

// Delete removes a volume or snapshot with its data. What is not there is no error.
func (s *Store) Delete(ctx context.Context, id string) error {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	grave := filepath.Join(s.dir, unfinished+"gone-"+id)
	if err := removeAll(grave); err != nil {
		return err
	}
	if err := unmount(s.content(id)); err != nil {
		return err
	}
	failpoint.Hit("volume.delete.begun")
	if err := os.Rename(s.path(id), grave); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	failpoint.Hit("volume.delete.renamed")
	s.mu.Lock()
	delete(s.walks, s.content(id))
	s.mu.Unlock()
	if err := os.RemoveAll(grave); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}
