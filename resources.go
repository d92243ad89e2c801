package gondola

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Resources is an amount of CPU and memory.
type Resources struct {
	CPUMillis   int64 `json:"cpu_millis,omitempty"`   // thousandths of a core
	MemoryBytes int64 `json:"memory_bytes,omitempty"` // bytes
}

// Add returns r + o.
func (r Resources) Add(o Resources) Resources {
	return Resources{r.CPUMillis + o.CPUMillis, r.MemoryBytes + o.MemoryBytes}
}

// Sub returns r - o; amounts may get negative.
func (r Resources) Sub(o Resources) Resources {
	return Resources{r.CPUMillis - o.CPUMillis, r.MemoryBytes - o.MemoryBytes}
}

// Fits says whether r can be taken out of free.
func (r Resources) Fits(free Resources) bool {
	return r.CPUMillis <= free.CPUMillis && r.MemoryBytes <= free.MemoryBytes
}

// String prints r for people: "2 CPUs and 4096 MB", "250m CPU and 64 MB".
func (r Resources) String() string {
	cpu := fmt.Sprintf("%dm CPU", r.CPUMillis)
	if r.CPUMillis%1000 == 0 {
		cpu = fmt.Sprintf("%d CPUs", r.CPUMillis/1000)
		if r.CPUMillis == 1000 {
			cpu = "1 CPU"
		}
	}
	return fmt.Sprintf("%s and %d MB", cpu, r.MemoryBytes>>20)
}

// Overhead is what a sandbox and its pilot take beside the containers; a Machine that requests nothing counts as this much.
var Overhead = Resources{CPUMillis: 0, MemoryBytes: 25 << 20}

// SharedCPUMillis is what one shared CPU of a guest reserves: a sixteenth of a core (Fly.io guarantees 5 ms of every 80 ms).
const SharedCPUMillis = 1000 / 16

// Guest is the size of a Machine in the API's terms.
type Guest struct {
	CPUKind              string   `json:"cpu_kind,omitempty"` // "shared" (default) or "performance"
	CPUs                 int      `json:"cpus,omitempty"`
	MemoryMB             int      `json:"memory_mb,omitempty"`
	MaxMemoryMB          int      `json:"max_memory_mb,omitempty"`
	GPUs                 int      `json:"gpus,omitempty"`
	GPUKind              string   `json:"gpu_kind,omitempty"`
	HostDedicationID     string   `json:"host_dedication_id,omitempty"`
	PersistRootfs        any      `json:"persist_rootfs,omitempty"` // deprecated: Rootfs.Persist
	KernelArgs           []string `json:"kernel_args,omitempty"`
	RequiredHostFeatures []string `json:"required_host_features,omitempty"`
}

// guestPresets are the named sizes (https://fly.io/docs/machines/guides-examples/machine-sizing/).
var guestPresets = map[string]Guest{
	"shared-cpu-1x":   {CPUKind: "shared", CPUs: 1, MemoryMB: 256},
	"shared-cpu-2x":   {CPUKind: "shared", CPUs: 2, MemoryMB: 512},
	"shared-cpu-4x":   {CPUKind: "shared", CPUs: 4, MemoryMB: 1024},
	"shared-cpu-6x":   {CPUKind: "shared", CPUs: 6, MemoryMB: 1536},
	"shared-cpu-8x":   {CPUKind: "shared", CPUs: 8, MemoryMB: 2048},
	"performance-1x":  {CPUKind: "performance", CPUs: 1, MemoryMB: 2048},
	"performance-2x":  {CPUKind: "performance", CPUs: 2, MemoryMB: 4096},
	"performance-4x":  {CPUKind: "performance", CPUs: 4, MemoryMB: 8192},
	"performance-6x":  {CPUKind: "performance", CPUs: 6, MemoryMB: 12288},
	"performance-8x":  {CPUKind: "performance", CPUs: 8, MemoryMB: 16384},
	"performance-10x": {CPUKind: "performance", CPUs: 10, MemoryMB: 20480},
	"performance-12x": {CPUKind: "performance", CPUs: 12, MemoryMB: 24576},
	"performance-14x": {CPUKind: "performance", CPUs: 14, MemoryMB: 28672},
	"performance-16x": {CPUKind: "performance", CPUs: 16, MemoryMB: 32768},
}

// GuestPreset returns the guest of a named size such as "shared-cpu-1x".
func GuestPreset(size string) (Guest, bool) {
	g, ok := guestPresets[size]
	return g, ok
}

// guestKinds are the sizes that Fly.io has: how many CPUs, and how much memory for each of them (machine-sizing).
var guestKinds = map[string]struct {
	cpus     []int
	min, max int // MB for each CPU
	step     int // MB
}{
	"shared":      {[]int{1, 2, 4, 6, 8}, 256, 2048, 256},
	"performance": {[]int{1, 2, 4, 6, 8, 10, 12, 14, 16}, 2048, 8192, 2048},
}

// validateGuest refuses sizes that Fly.io does not have. A Config that says exactly what it reserves (ConfigExtension) has a guest only for the
// wire, which may be any.
func (c *Config) validateGuest() error {
	g := c.Guest
	if g == nil {
		return nil
	}
	kind, ok := guestKinds[cmp.Or(g.CPUKind, "shared")]
	switch {
	case !ok:
		return Errorf(ErrInvalid, "config.guest.cpu_kind %q: use shared or performance", g.CPUKind)
	case g.CPUs < 0 || g.MemoryMB < 0:
		return Errorf(ErrInvalid, "config.guest: cpus %d, memory_mb %d: use 1 or more, or leave them out", g.CPUs, g.MemoryMB)
	case c.Gondola != nil && c.Gondola.Requests != nil:
		return nil
	}
	name, cpus := cmp.Or(g.CPUKind, "shared"), max(g.CPUs, 1)
	if !slices.Contains(kind.cpus, cpus) {
		return Errorf(ErrInvalid, "config.guest.cpus %d: with cpu_kind %s use one of %s", cpus, name, strings.Trim(fmt.Sprint(kind.cpus), "[]"))
	}
	least, most := kind.min*cpus, kind.max*cpus
	if m := g.MemoryMB; m != 0 && (m < least || m > most || m%kind.step != 0) {
		return Errorf(ErrInvalid, "config.guest.memory_mb %d: with cpu_kind %s and %d cpus use %d to %d in steps of %d", m, name, cpus, least, most, kind.step)
	}
	return nil
}

// Resources returns what a guest of this size reserves and may use at most.
func (g Guest) Resources() (requests, limits Resources) {
	kind, cpus, mem := g.CPUKind, int64(max(g.CPUs, 1)), int64(g.MemoryMB)
	if mem == 0 {
		mem = 256 * cpus
		if kind == "performance" {
			mem = 2048 * cpus
		}
	}
	limits = Resources{CPUMillis: 1000 * cpus, MemoryBytes: mem << 20}
	requests = limits
	if kind != "performance" {
		requests.CPUMillis = SharedCPUMillis * cpus
	}
	return requests, limits
}

// GuestFor returns the smallest guest that holds r, for the wire: shared CPUs of a sixteenth, whole ones above half of the largest shared
// size, memory rounded up to 256 MB.
func GuestFor(r Resources) *Guest {
	mem := int((r.MemoryBytes + 256<<20 - 1) / (256 << 20) * 256)
	if shared := (r.CPUMillis + SharedCPUMillis - 1) / SharedCPUMillis; shared <= 8 {
		return &Guest{CPUKind: "shared", CPUs: int(max(shared, 1)), MemoryMB: max(mem, 256)}
	}
	return &Guest{CPUKind: "performance", CPUs: int((r.CPUMillis + 999) / 1000), MemoryMB: max(mem, 2048)}
}
