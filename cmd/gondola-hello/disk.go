package main

import (
	"cmp"
	"fmt"
	"syscall"
)

// df prints how large the disks are on which the paths are, in KiB.
func df(t *tool) int {
	_, names, err := t.options("k", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	if len(names) == 0 {
		names = []string{"/"}
	}
	fmt.Fprintf(t.out, "%12s %12s %12s Use%% Path\n", "1K-blocks", "Used", "Available")
	return t.each(names, func(n string) error {
		var s syscall.Statfs_t
		if err := syscall.Statfs(n, &s); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		kib := func(blocks uint64) uint64 { return blocks * uint64(s.Bsize) / 1024 }
		total, used, free := kib(s.Blocks), kib(s.Blocks-s.Bfree), kib(s.Bavail)
		_, err := fmt.Fprintf(t.out, "%12d %12d %12d %3d%% %s\n", total, used, free, 100*used/cmp.Or(used+free, 1), n)
		return err
	})
}
