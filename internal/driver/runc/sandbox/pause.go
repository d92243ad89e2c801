package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"gondola/internal/driver/oci"
)

// startPause starts the process that holds the namespaces which the containers share, and returns its pid. It is a program of a few bytes that
// reads nothing, so runc, which would take as long for it as for a container, is not asked. It stays in the pilot's cgroup.
func (r *Runtime) startPause() (int, error) {
	if err := os.MkdirAll(r.shm(), 0o700); err != nil {
		return 0, err
	}
	if err := oci.MountTmpfs(r.shm(), "mode=1777", shmMB); err != nil {
		return 0, err
	}
	root := r.bundle(oci.PauseName)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	// What this process was given by whoever started it goes no further; kernels before 5.11 cannot say that.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	pid := 0
	lastOnThread(func() {
		if err = r.enterSandbox(root); err == nil {
			fd := null.Fd()
			pid, err = syscall.ForkExec("/pause", []string{"/pause"},
				&syscall.ProcAttr{Dir: "/", Files: []uintptr{fd, fd, fd}, Sys: &syscall.SysProcAttr{Setsid: true}})
		}
	})
	return pid, err
}

// lastOnThread runs f on a thread that runs nothing else afterwards, and is not the process's first: what /proc says of a process is of that.
func lastOnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never let go of: the thread ends with this goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		lastOnThread(f) // meanwhile nobody else comes upon this one
		runtime.UnlockOSThread()
	}()
	<-done
}

// enterSandbox moves this thread into the Machine's network and into new namespaces, with nothing but the pause program as its file system,
// which is mounted at root there and nowhere else. What it starts has no rights.
func (r *Runtime) enterSandbox(root string) error {
	namespaces := unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID
	if r.spec.NetNS == "" {
		namespaces |= unix.CLONE_NEWNET
	} else {
		fd, err := unix.Open(r.spec.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("network namespace %s: %w", r.spec.NetNS, err)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespace %s: %w", r.spec.NetNS, err)
		}
	}
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("new namespaces: %w", err)
	}
	if err := unix.Sethostname([]byte(r.spec.Hostname)); err != nil {
		return fmt.Errorf("host name %q: %w", r.spec.Hostname, err)
	}
	if err := changeRoot(root); err != nil {
		return fmt.Errorf("root of the sandbox: %w", err)
	}
	return dropRights()
}

// changeRoot makes a read-only file system with the pause program the root of this thread's mount namespace, and the only one.
func changeRoot(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("pause", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64k"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "pause"), oci.PauseProgram(), 0o755); err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	// The old root comes to lie on the new one, and goes (pivot_root(2), "pivot_root(".", ".")").
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	return errors.Join(unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/"),
		unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""))
}

// dropRights lets what this thread starts have no capabilities, and none ever again.
func dropRights() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // the kernel knows fewer
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}
