package host

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"time"

	"gondola"
	"gondola/internal/driver/cgroup"
)

const (
	lookAtLeast = 500 * time.Millisecond // how often the Guard looks where there is much memory
	lookAtMost  = 5 * time.Millisecond   // and where there is little
	fastest     = 8 << 30                // bytes that Machines may take in a second
)

// Guard sees to it that a Machine that takes ever more memory costs no other Machine its life. Where the bound of all Machines is met, the kernel
// ends whoever it takes for the largest: what a gVisor sandbox has is in a file in memory, which counts for none of its processes, and as long as
// that file is being freed there still is no memory, so that it ends the next one too. Therefore, shortly before the bound is met, the Machine that
// has most beyond what it asked for is held at what it has. It goes on; but if it takes more, the kernel looks in its cgroup alone for whom to end.
type Guard struct {
	tree  cgroup.Tree
	group string                             // of all Machines, which is bounded
	asked func() map[gondola.MachineID]int64 // bytes that each Machine asked for
	log   *slog.Logger
	ready chan struct{}

	held map[gondola.MachineID]bool // to be let go of; those that are gone too, until the next is held
}

// Guard returns the Guard of this host's Machines. asked returns the bytes that each of them asked for.
func (h *Host) Guard(asked func() map[gondola.MachineID]int64) *Guard {
	return newGuard(h.group(), asked, h.log)
}

func newGuard(group string, asked func() map[gondola.MachineID]int64, log *slog.Logger) *Guard {
	return &Guard{tree: cgroup.Host(), group: group, asked: asked, log: log, ready: make(chan struct{}), held: map[gondola.MachineID]bool{}}
}

func (g *Guard) String() string { return "memory guard" }

// Ready is closed when Run has found the Machines that an earlier Guard holds.
func (g *Guard) Ready() <-chan struct{} { return g.ready }

// Run guards until ctx ends. Whom it holds then, stays held until the next Run.
func (g *Guard) Run(ctx context.Context) error {
	for id := range g.asked() {
		if _, limit := g.tree.Memory(g.of(id)); limit > 0 {
			g.held[id] = true
		}
	}
	close(g.ready)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.C:
			next.Reset(g.look())
		}
	}
}

// of is the cgroup of a Machine. Its own limits are those of groups in it.
func (g *Guard) of(id gondola.MachineID) string { return filepath.Join(g.group, string(id)) }

// look holds a Machine, or lets go of all, where it is time to, and returns when to look again: before what is left now can be gone.
func (g *Guard) look() time.Duration {
	used, bound := g.tree.Memory(g.group)
	if bound == 0 {
		return lookAtLeast
	}
	margin := min(max(bound/16, 64<<20), 1<<30)
	left := bound - used
	if left < bound/4 { // much of it may be files
		left = bound - g.tree.Usage(g.group).Kept
	}
	switch {
	case left < margin:
		g.hold(max(left, 0) / 4)
	case left > 3*margin:
		g.letGo()
	}
	return lookIn(left - margin)
}

// lookIn is when to look again where so many bytes are left.
func lookIn(left int64) time.Duration {
	at := time.Duration(float64(left) / fastest * float64(time.Second))
	return min(max(at, lookAtMost), lookAtLeast)
}

// hold holds the Machine that has most beyond what it asked for, of those that are not held, with so many bytes to spare. Cached files count as its
// own: if it is held for these, it loses them before anything else.
func (g *Guard) hold(spare int64) {
	var who gondola.MachineID
	var over, has int64
	maps.DeleteFunc(g.held, func(id gondola.MachineID, _ bool) bool {
		_, limit := g.tree.Memory(g.of(id))
		return limit == 0 // it is gone, or was started anew
	})
	asked := g.asked()
	for id, n := range asked {
		if used, limit := g.tree.Memory(g.of(id)); limit == 0 && used-n > over {
			who, over, has = id, used-n, used
		}
	}
	if who == "" {
		return
	}
	if err := g.tree.HoldMemory(g.of(who), has+spare); err != nil { // it has more by now
		g.log.Debug("a machine cannot be held at the memory that it has; tried again", "machine", who, "err", err)
		return
	}
	g.held[who] = true
	g.log.Warn("memory for machines is nearly used up: a machine gets no more", "machine", who, "bytes", has+spare, "asked", asked[who])
}

// letGo lets the held Machines have memory again.
func (g *Guard) letGo() {
	for id := range g.held {
		err := g.tree.HoldMemory(g.of(id), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.log.Warn("a machine cannot be given memory again; tried again", "machine", id, "err", err)
			continue
		}
		delete(g.held, id)
		g.log.Info("there is memory for machines again", "machine", id)
	}
}
