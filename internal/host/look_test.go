package host

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/cgroup"
)

// bounded is a Guard over cgroups that are plain files: a test says what is used in them.
type bounded struct {
	*Guard
	t    *testing.T
	root string
}

func newBounded(t *testing.T, bound int64, asked map[gondola.MachineID]int64) *bounded {
	b := &bounded{t: t, root: t.TempDir(), Guard: newGuard("all", func() map[gondola.MachineID]int64 { return asked }, slog.New(slog.DiscardHandler))}
	b.tree = cgroup.At(b.root)
	b.put("cgroup.controllers", "memory")
	b.make("all", 0)
	b.put("all/memory.max", strconv.FormatInt(bound, 10))
	return b
}

func (b *bounded) put(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.root, name), []byte(content+"\n"), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// make makes a group anew, without a limit.
func (b *bounded) make(group string, used int64) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.root, group), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.put(filepath.Join(group, "cgroup.procs"), "")
	b.put(filepath.Join(group, "memory.max"), "max")
	b.use(group, used)
}

func (b *bounded) use(group string, bytes int64) {
	b.t.Helper()
	b.put(filepath.Join(group, "memory.current"), strconv.FormatInt(bytes, 10))
}

func (b *bounded) isHeld(id gondola.MachineID) bool {
	_, limit := b.tree.Memory(b.of(id))
	return limit > 0
}

func TestGuard_LooksSeldomWhereMuchIsLeft(t *testing.T) {
	for _, c := range []struct {
		bound, used int64
		want        time.Duration
	}{
		{2 << 30, 2<<30 - 1<<20, lookAtMost},
		{2 << 30, 1 << 30, 109375 * time.Microsecond},
		{10 << 30, 0, lookAtLeast},
		{16 << 30, 0, lookAtLeast},
		{32 << 30, 1 << 30, lookAtLeast},
		{64 << 30, 0, lookAtLeast},
		{64 << 30, 40 << 30, lookAtLeast},
		{64 << 30, 62 << 30, 125 * time.Millisecond},
		{4 << 40, 0, lookAtLeast},
	} {
		b := newBounded(t, c.bound, nil)
		b.use("all", c.used)
		if got := b.look(); got != c.want {
			t.Errorf("with %d of %d bytes used it looks again in %s, want %s", c.used, c.bound, got, c.want)
		}
	}
}

// TestGuard_HoldsAMachineAgainThatWasStartedAnew: its cgroup is another then, and has no limit.
func TestGuard_HoldsAMachineAgainThatWasStartedAnew(t *testing.T) {
	const hog, gone = "aaaaaaaaaaaaa1", "aaaaaaaaaaaaa2"
	b := newBounded(t, 1<<30, map[gondola.MachineID]int64{hog: 1 << 20, gone: 1 << 20})
	b.make("all/"+hog, 600<<20)
	b.make("all/"+gone, 400<<20)
	b.use("all", 1000<<20)
	for range 2 {
		b.look()
	}
	if !b.isHeld(hog) || !b.isHeld(gone) {
		t.Fatal("memory is used up, and not both machines are held")
	}
	b.make("all/"+hog, 900<<20)
	if err := os.RemoveAll(filepath.Join(b.root, "all", gone)); err != nil {
		t.Fatal(err)
	}
	b.look()
	if !b.isHeld(hog) {
		t.Error("the machine that was started anew is not held")
	}
	if b.held[gone] {
		t.Error("a machine that is gone counts as held")
	}
}
