// Package failpoint lets a test kill a process at a step that it names, as a power cut would. Steps that are recorded, and acts that follow
// a record, each have a point before or after them: failpoint.Hit("worker.create.recorded").
//
// It does nothing, and costs one comparison, unless the environment of the process has GONDOLA_FAILPOINT when it starts:
//
//	GONDOLA_FAILPOINT=worker.create.recorded      SIGKILL to this process at the first hit of that point
//	GONDOLA_FAILPOINT=worker.create.recorded=3    at the third
//	GONDOLA_FAILPOINT=@/dir/armed                 the same, as the file says at the time of a hit; none while it is not there
//
// Of the processes that share a file one dies, once: it renames the file to /dir/armed.hit before it does. It is for tests alone: docs/rfd/0007.
package failpoint

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Variable is the environment variable that arms a point. A driver hands it on to pilots.
const Variable = "GONDOLA_FAILPOINT"

// armed is what this process was started with, nil if nothing. It is the only state of a package in this program: a point is reached from
// everywhere, and a test has no other way into a process that it kills.
var armed = parse(os.Getenv(Variable))

// arm is the point at which the process dies.
type arm struct {
	file string // that says which; empty: want does

	mu   sync.Mutex
	want string // as "name=n"
	hits int    // of want
}

func parse(v string) *arm {
	if v == "" {
		return nil
	}
	if file, ok := strings.CutPrefix(v, "@"); ok {
		return &arm{file: file}
	}
	return &arm{want: v}
}

// Hit kills the process if this is the point that it was told to die at. Any goroutine may call it, at any time.
func Hit(name string) {
	if armed != nil && armed.due(name) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // what is left of this process does nothing more
	}
}

// due counts a hit and says whether it is the last.
func (a *arm) due(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != "" {
		b, err := os.ReadFile(a.file)
		if err != nil {
			return false
		}
		if now := strings.TrimSpace(string(b)); now != a.want {
			a.want, a.hits = now, 0
		}
	}
	point, count, _ := strings.Cut(a.want, "=")
	if point != name {
		return false
	}
	a.hits++
	n, err := strconv.Atoi(cmp.Or(count, "1"))
	if err != nil || a.hits < n {
		return false
	}
	return a.file == "" || os.Rename(a.file, a.file+".hit") == nil
}
