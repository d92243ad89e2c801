package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"gondola"
)

// Requests of linux/fs.h and fs/ext4/ext4.h that x/sys has not.
const (
	fiFreeze     = 0xc0045877 // FIFREEZE
	fiThaw       = 0xc0045878 // FITHAW
	ext4ResizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS
)

// format makes the image of a volume, all of it a hole, with an empty ext4 in it.
func format(ctx context.Context, image string, m meta) error {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(m.imageSize()), f.Close()); err != nil {
		return err
	}
	// No blocks kept for root: the volume is its user's. Inode tables are filled in as they are used, so that the file stays sparse.
	args := []string{"-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"}
	if m.Raw {
		args = append(args, "-i", bytesPerFile)
	}
	if err := program(ctx, "mkfs.ext4", append(args, image)...); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return gondola.Errorf(gondola.ErrUnsupported, "mkfs.ext4 is not installed: apt-get install e2fsprogs")
		}
		return err
	}
	return nil
}

// settle makes the root of a new file system what a user expects: empty, so that databases take it, and open to every user.
func settle(dir string) error {
	if err := os.Remove(filepath.Join(dir, "lost+found")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Chmod(dir, 0o777)
}

// super is what is read of an ext4 superblock (https://docs.kernel.org/filesystems/ext4/globals.html).
type super struct {
	blocks, free, blockSize int64
	overhead                int64 // blocks of the file system's own; zero where nobody has noted it yet
	state                   uint16
}

func readSuper(image string) (super, error) {
	f, err := os.Open(image)
	if err != nil {
		return super{}, err
	}
	defer f.Close()
	b := make([]byte, 1024)
	if _, err := f.ReadAt(b, 1024); err != nil && err != io.EOF {
		return super{}, err
	}
	le := binary.LittleEndian
	if le.Uint16(b[0x38:]) != 0xEF53 {
		return super{}, fmt.Errorf("%s holds no ext4", image)
	}
	return super{blocks: int64(le.Uint32(b[0x4:])) | int64(le.Uint32(b[0x150:]))<<32, free: int64(le.Uint32(b[0xC:])) | int64(le.Uint32(b[0x158:]))<<32,
		overhead: int64(le.Uint32(b[0x248:])), blockSize: 1024 << le.Uint32(b[0x18:]), state: le.Uint16(b[0x3A:])}, nil
}

// hasErrors says whether the kernel noted that the file system is broken.
func hasErrors(image string) (bool, error) {
	sb, err := readSuper(image)
	const errorFS = 2
	return sb.state&errorFS != 0, err
}

// enlargeImage makes the file of an image as large as size; one that is large enough is left alone.
func enlargeImage(image string, size int64) error {
	st, err := os.Stat(image)
	if err != nil || st.Size() >= size {
		return err
	}
	return os.Truncate(image, size)
}

// growMounted makes device and file system on dir as large as the image. Without CAP_SYS_RESOURCE, which containers often lack, the kernel
// refuses that: EPERM.
func growMounted(image, dir string) error {
	st, err := os.Stat(image)
	if err != nil {
		return err
	}
	dev, err := loopOf(dir)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("resize %s: %w", dev.Name(), err)
	}
	sb, err := readSuper(image)
	if err != nil {
		return err
	}
	want := uint64(st.Size() / sb.blockSize)
	if uint64(sb.blocks) >= want {
		return nil
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&want))); errno != 0 {
		return fmt.Errorf("resize the ext4 of %s to %d blocks: %w", image, want, errno)
	}
	return unix.Syncfs(int(root.Fd()))
}

// mountWhole mounts an image with a file system as large as the image.
func mountWhole(ctx context.Context, image, dir string) error {
	if mounted, err := isMounted(dir); err != nil || mounted {
		return err
	}
	if err := mountImage(ctx, image, dir); err != nil {
		return err
	}
	err := growMounted(image, dir)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	// As nobody uses it yet, it can be done from outside.
	if err := unmount(dir); err != nil {
		return err
	}
	if err := released(ctx, image); err != nil {
		return err
	}
	if err := repair(ctx, image); err != nil {
		return err
	}
	if err := program(ctx, "resize2fs", image); err != nil {
		return err
	}
	return mountImage(ctx, image, dir)
}

// freeze stops all writing to the file system on dir and brings it into a state that is whole on disk.
func freeze(dir string) (thaw func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("freeze %s: %w", dir, err)
	}
	return func() error {
		defer f.Close()
		if err := unix.IoctlSetInt(int(f.Fd()), fiThaw, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("thaw %s: %w", dir, err)
		}
		return nil
	}, nil
}

// thawAll thaws what a crash left frozen: whoever writes there stands still until then.
func (s *Store) thawAll() error {
	mounts, err := filepath.Glob(filepath.Join(s.dir, "*", "mnt"))
	if err != nil {
		return err
	}
	for _, dir := range mounts {
		if mounted, err := isMounted(dir); err != nil || !mounted {
			continue
		}
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = unix.IoctlSetInt(int(f.Fd()), fiThaw, 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("thaw %s: %w", dir, err)
		}
		if err == nil {
			s.log.Warn("a volume was frozen: a snapshot of it had been cut short", "volume", filepath.Base(filepath.Dir(dir)))
		}
	}
	return nil
}
