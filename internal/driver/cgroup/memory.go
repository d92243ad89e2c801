package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// unlimited is what v1 has in place of no limit, or more.
const unlimited = 1 << 60

// Memory returns the bytes that a group and those below it have, caches of files too, and the most that they may have; zero where that is not limited.
func (t Tree) Memory(group string) (used, limit int64) {
	dir, files := filepath.Join(t.root, group), [2]string{"memory.current", "memory.max"}
	if !t.Unified() {
		dir, files = filepath.Join(t.root, "memory", group), [2]string{"memory.usage_in_bytes", "memory.limit_in_bytes"}
	}
	read := func(file string) int64 {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return 0
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // "max" is no number
		return n
	}
	if used, limit = read(files[0]), read(files[1]); limit >= unlimited {
		limit = 0
	}
	return used, limit
}

// HoldMemory lets a group and those below it have so many bytes at most, beside what limits these have; zero takes that away. On v1 it is an error
// to have more already; on v2 the kernel ends what has.
func (t Tree) HoldMemory(group string, bytes int64) error {
	none := bytes == 0
	var err error
	switch {
	case t.Unified() && none:
		err = write(filepath.Join(t.root, group, "memory.max"), "max")
	case t.Unified():
		err = write(filepath.Join(t.root, group, "memory.max"), strconv.FormatInt(bytes, 10))
	case none:
		err = t.resizeMemory(group, "-1")
	default:
		err = t.resizeMemory(group, strconv.FormatInt(bytes, 10))
	}
	if err != nil {
		return fmt.Errorf("hold the memory of a cgroup: %w", err)
	}
	return nil
}
