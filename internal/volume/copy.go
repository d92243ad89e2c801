package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// copyImage makes to a copy of from: one that shares its blocks where the disk can do that, else one with the same holes. It returns the bytes
// that it takes, and how many of them it shares.
func copyImage(ctx context.Context, from, to string) (taken, shared int64, err error) {
	src, err := os.Open(from)
	if err != nil {
		return 0, 0, err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer dst.Close()
	cloned := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
	if !cloned {
		if err := copySparse(ctx, src, dst); err != nil {
			return 0, 0, fmt.Errorf("copy %s: %w", from, err)
		}
	}
	if err := dst.Sync(); err != nil {
		return 0, 0, err
	}
	st, err := dst.Stat()
	if err != nil {
		return 0, 0, err
	}
	taken = blocks(st)
	if cloned {
		shared = taken
	}
	return taken, shared, nil
}

// copySparse copies what is data and leaves the holes.
func copySparse(ctx context.Context, src, dst *os.File) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	const step = 4 << 20
	buf := make([]byte, step)
	for at := int64(0); at < st.Size(); {
		begin, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(src.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for begin < end {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := src.ReadAt(buf[:min(step, end-begin)], begin)
			if err != nil && err != io.EOF || n == 0 {
				return errors.Join(err, io.ErrUnexpectedEOF)
			}
			if _, err := dst.WriteAt(buf[:n], begin); err != nil {
				return err
			}
			begin += int64(n)
		}
		at = end
	}
	return nil
}

// clones says whether files here can share blocks.
func (s *Store) clones() bool {
	var st unix.Statfs_t
	if unix.Statfs(s.dir, &st) != nil {
		return false
	}
	return st.Type == unix.BTRFS_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC
}

// give makes everything below dir, and what will be made in it, belong to a group that may write, as a kubelet does for a Pod's fsGroup
// (pkg/volume/volume_linux.go). With onMismatch nothing is done where the root is so already. Nobody else may be at work in dir.
func give(dir string, group int64, onMismatch bool) error {
	const files, dirs = 0o660, 0o770 | os.ModeSetgid
	if onMismatch {
		st, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if owner(st) == group && st.Mode()&(os.ModePerm|os.ModeSetgid)&dirs == dirs {
			return nil
		}
	}
	// The root comes last: where it is as it shall be, all else is.
	var change func(path string) error
	change = func(path string) error {
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if st.IsDir() {
			entries, err := os.ReadDir(path)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if err := change(filepath.Join(path, e.Name())); err != nil {
					return err
				}
			}
		}
		if err := os.Lchown(path, -1, int(group)); err != nil {
			return err
		}
		if st.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		mode := st.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
		if st.IsDir() {
			return os.Chmod(path, mode|dirs)
		}
		return os.Chmod(path, mode|files)
	}
	return change(dir)
}
