package driver

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// MountsBelow lists the mount points at dir and below it, in the order of mounting. dir is a path without symbolic links.
func MountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20) // an overlay of many layers has a long line
	for sc.Scan() {
		fields := strings.SplitN(sc.Text(), " ", 6) // proc_pid_mountinfo(5): the fifth is the mount point
		if len(fields) < 6 {
			continue
		}
		if p := unescapeMount(fields[4]); p == dir || strings.HasPrefix(p, dir+"/") {
			points = append(points, p)
		}
	}
	return points, sc.Err()
}

// unescapeMount undoes the kernel's \ooo for blanks, tabs, newlines and backslashes.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// UnmountBelow takes away every mount at dir and below it, the last made first. One that is busy is detached: its user keeps it until the
// end, but nobody comes upon it through dir any more.
func UnmountBelow(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil // nothing is mounted where nothing is, and the list of all mounts may be long
	}
	// Several rounds, since mounts may lie on each other; each takes at least one away.
	for {
		points, err := MountsBelow(dir)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return nil
		}
		for i := len(points) - 1; i >= 0; i-- {
			err := unix.Unmount(points[i], unix.UMOUNT_NOFOLLOW)
			if err == unix.EBUSY {
				err = unix.Unmount(points[i], unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			}
			// EINVAL, ENOENT: it went with another one, as propagated mounts do.
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("unmount %s: %w", points[i], err)
			}
		}
		after, err := MountsBelow(dir)
		if err != nil {
			return err
		}
		if len(after) >= len(points) {
			return fmt.Errorf("unmount %s: the kernel keeps it mounted", after[len(after)-1])
		}
	}
}
