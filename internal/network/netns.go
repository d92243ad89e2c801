package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	netnsDir = "/run/netns" // where ip netns looks
	ownNetNS = "/proc/thread-self/ns/net"
)

// createNetNS makes a network namespace that is mounted at path, and returns a descriptor of it and a handle inside.
func createNetNS(path string) (ns int, inside *netlink.Handle, err error) {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return -1, nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return -1, nil, err
	}
	f.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, openErr := unix.Open(ownNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err = openErr; err != nil {
			runtime.UnlockOSThread()
			return
		}
		defer unix.Close(home)
		ns, inside, err = enterNewNetNS(path)
		// A thread that cannot go home stays locked and ends with this goroutine, so that no other one ever runs in the namespace.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	if err != nil {
		return -1, nil, errors.Join(err, removeNetNS(path))
	}
	return ns, inside, nil
}

func enterNewNetNS(path string) (ns int, inside *netlink.Handle, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return -1, nil, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount(ownNetNS, path, "none", unix.MS_BIND, ""); err != nil {
		return -1, nil, fmt.Errorf("mount: %w", err)
	}
	for _, s := range [][2]string{
		{"ipv6/conf/all/disable_ipv6", "0"}, {"ipv6/conf/default/disable_ipv6", "0"}, // a host may have it off by default
		{"ipv6/conf/default/accept_dad", "0"}, {"ipv6/conf/default/accept_ra", "0"},
		{"ipv4/ip_unprivileged_port_start", "0"}, {"ipv4/ping_group_range", "0 2147483647"}, // as container engines have it
	} {
		if err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0); err != nil {
			return -1, nil, err
		}
	}
	if inside, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return -1, nil, err
	}
	if ns, err = unix.Open(ownNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		inside.Close()
		return -1, nil, err
	}
	return ns, inside, nil
}

func removeNetNS(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func isNetNS(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}
