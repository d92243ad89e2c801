package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/failpoint"
)

// attach makes a loop device of an image and returns it open. The kernel lets go of the image with the device's last user (autoclear), so
// that no crash leaves one behind: close the device once it is mounted. Where a dying process still has an earlier mount, its device is
// returned: a second one for the same file would be a second, different view of it.
func attach(image string) (*os.File, error) {
	back, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	if dev, err := attached(back); dev != nil || err != nil {
		return dev, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // another program may be faster to take the free one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		dev, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		err = configure(dev, back)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to %s: %w", image, dev.Name(), err)
		}
	}
	return nil, fmt.Errorf("attach %s: every free loop device was taken by others", image)
}

// attached returns the loop device that a file has already, nil if none.
func attached(back *os.File) (*os.File, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(back.Fd()), &want); err != nil {
		return nil, err
	}
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file") // there only while it backs something
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		said, err := os.ReadFile(name)
		if err != nil || filepath.Base(strings.TrimSpace(string(said))) != filepath.Base(back.Name()) {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(name, "/sys/block/loop%d/", &n); err != nil {
			continue
		}
		dev, err := openLoop(n) // while it is open it stays as it is
		if err != nil {
			return nil, err
		}
		if info, err := unix.IoctlLoopGetStatus64(int(dev.Fd())); err == nil && info.Inode == want.Ino && info.Device == want.Dev {
			return dev, nil
		}
		dev.Close()
	}
	return nil, nil
}

// released waits until no loop device has an image: the kernel lets go of it a moment after the last user. Whoever wrote to the file before
// that would write past the device, which goes on with what it had read.
func released(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	back, err := os.Open(image)
	if err != nil {
		return err
	}
	defer back.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		dev, err := attached(back)
		if dev == nil || err != nil {
			return err
		}
		dev.Close()
		select {
		case <-ctx.Done():
			return gondola.Errorf(gondola.ErrUnavailable, "%s is still in use by way of %s: end what has a file of it open", image, dev.Name())
		case <-tick.C:
		}
	}
}

// openLoop opens loop device n, whose node may be missing inside another container.
func openLoop(n int) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		const loopMajor = 7
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
		dev, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	return dev, err
}

func configure(dev, back *os.File) error {
	info := unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}
	copy(info.File_name[:len(info.File_name)-1], back.Name())
	err := unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(back.Fd()), Info: info})
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		return err
	}
	// Before Linux 5.8: in two steps.
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(back.Fd())); err != nil {
		return err
	}
	if err := unix.IoctlLoopSetStatus64(int(dev.Fd()), &info); err != nil {
		return errors.Join(err, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0))
	}
	return nil
}

// mountImage mounts an image on dir, which is made.
func mountImage(ctx context.Context, image, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if mounted, err := isMounted(dir); err != nil || mounted {
		return err
	}
	if bad, err := hasErrors(image); err != nil {
		return err
	} else if bad {
		if err := released(ctx, image); err != nil {
			return err
		}
		if err := repair(ctx, image); err != nil {
			return err
		}
	}
	err := mountLoop(image, dir)
	if errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADMSG) {
		if err := released(ctx, image); err != nil {
			return err
		}
		if err := repair(ctx, image); err != nil {
			return err
		}
		err = mountLoop(image, dir)
	}
	return err
}

func mountLoop(image, dir string) error {
	dev, err := attach(image)
	if err != nil {
		return err
	}
	defer dev.Close()
	// discard: what is deleted inside is given back to the host's disk. nodev: a device node made in a sandbox means nothing out here.
	failpoint.Hit("volume.mount.attached")
	if err := unix.Mount(dev.Name(), dir, "ext4", unix.MS_NODEV, "discard,errors=remount-ro"); err != nil {
		return fmt.Errorf("mount %s: %w", image, err)
	}
	return nil
}

// isMounted says whether dir is a mount point.
func isMounted(dir string) (bool, error) {
	var self, parent unix.Stat_t
	if err := unix.Lstat(dir, &self); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &parent); err != nil {
		return false, &os.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return self.Dev != parent.Dev, nil
}

// unmount takes away what is mounted on dir, if anything is. A mount that is in use is detached: its user keeps it until the end.
func unmount(dir string) error {
	for {
		mounted, err := isMounted(dir)
		if err != nil || !mounted {
			return err
		}
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}

// loopOf opens the loop device that is mounted on dir.
func loopOf(dir string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, err
	}
	name, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return nil, err
	}
	var n int
	if _, err := fmt.Sscanf(filepath.Base(name), "loop%d", &n); err != nil {
		return nil, fmt.Errorf("%s is mounted from %s, which is no loop device", dir, filepath.Base(name))
	}
	return openLoop(n)
}

// program runs one of the tools of ext4.
func program(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		if said := strings.TrimSpace(string(out)); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// repair has e2fsck put right what can be without asking.
func repair(ctx context.Context, image string) error {
	err := program(ctx, "e2fsck", "-p", "-f", image)
	var code *exec.ExitError
	if errors.As(err, &code) && code.ExitCode() < 4 { // e2fsck(8): 1 and 2 mean corrected
		return nil
	}
	return err
}

// tryImages finds out whether volumes can be images here, by making and mounting one.
func tryImages(dir string) error {
	tmp, err := os.MkdirTemp(dir, unfinished+"try-")
	if err != nil {
		return err
	}
	defer removeAll(tmp)
	image, mnt := filepath.Join(tmp, "disk"), filepath.Join(tmp, "mnt")
	if err := format(context.Background(), image, meta{Size: 8 << 20}); err != nil {
		return err
	}
	if err := mountImage(context.Background(), image, mnt); err != nil {
		return err
	}
	return unmount(mnt)
}
