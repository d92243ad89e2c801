package host

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"gondola/internal/driver"
)

// runSize bounds the tmpfs of a Machine: payload, bundles and the runtime's own state.
const runSize = "64m"

// ensureTmpfs makes dir a mounted tmpfs. It keeps FIFOs, sockets and secrets; nothing in it is run.
func ensureTmpfs(dir string) (mounted bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	points, err := driver.MountsBelow(dir)
	if err != nil {
		return false, err
	}
	for _, p := range points {
		if p == dir {
			return false, nil
		}
	}
	// Not noexec: the sandbox's pause process lies in it.
	if err := unix.Mount("gondola", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size="+runSize); err != nil {
		return false, fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return true, nil
}
