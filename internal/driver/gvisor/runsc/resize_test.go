package runsc_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

func TestResize_IsSeenInsideAndKeptOutside(t *testing.T) {
	const mb = 1 << 20
	m := boot(t, func(s *pilot.Spec) {
		limited(gondola.Resources{CPUMillis: 500, MemoryBytes: 96 * mb}, map[string]gondola.Resources{"one": {CPUMillis: 200, MemoryBytes: 64 * mb}})(s)
	})
	m.start("one", nil, "serve", "8080").line(t)
	m.start("two", nil, "serve", "8081").line(t)
	files := func(name string) (got [3]string) {
		for i, file := range []string{"memory.max", "cpu.max", "cpu.weight"} {
			got[i], _ = m.exec(name, "read", "/sys/fs/cgroup/"+file)
		}
		return got
	}
	if got := files("one"); got != [3]string{"67108864", "20000 100000", "1"} {
		t.Fatalf("at first it shows %q", got)
	}
	if err := m.Resize(t.Context(), gondola.Size{Requests: gondola.Resources{CPUMillis: 900}, Limits: gondola.Resources{CPUMillis: 50, MemoryBytes: 256 * mb}}); err != nil {
		t.Fatal(err)
	}
	one, two := m.spec.Containers[0], m.spec.Containers[1]
	one.Config.Gondola = &gondola.ContainerExtension{Requests: &gondola.Resources{CPUMillis: 250}, Limits: &gondola.Resources{MemoryBytes: 128 * mb}}
	for _, c := range []pilot.Container{one, two} {
		if err := m.Limit(t.Context(), c); err != nil {
			t.Fatalf("Limit(%s) = %v", c.Name, err)
		}
	}
	if got := files("one"); got != [3]string{"134217728", "5000 100000", "10"} {
		t.Errorf("its own limits are shown as %q", got)
	}
	if got := files("two"); got != [3]string{"268435456", "5000 100000", "100"} {
		t.Errorf("the Machine's limits are shown as %q", got)
	}
	// The sandbox itself needs memory, and a tenth of a core.
	group := m.spec.Cgroup + "/sandbox/"
	if got := kept("memory/"+group+"memory.limit_in_bytes", group+"memory.max"); got != fmt.Sprint(256*mb+gondola.Overhead.MemoryBytes) {
		t.Errorf("the sandbox may use %s bytes", got)
	}
	if got := kept("cpu/"+group+"cpu.cfs_quota_us", group+"cpu.max"); got != "10000" {
		t.Errorf("the sandbox may use %s us of CPU in 100 ms", got)
	}
}

// kept returns the first word of a file of the host's cgroups, which are v1 or v2.
func kept(v1, v2 string) string {
	for _, file := range []string{v1, v2} {
		if b, err := os.ReadFile("/sys/fs/cgroup/" + file); err == nil {
			return strings.Fields(string(b))[0]
		}
	}
	return "nothing"
}
