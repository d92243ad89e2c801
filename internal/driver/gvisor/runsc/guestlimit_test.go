package runsc_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

// limited gives containers limits of their own, by name.
func limited(machine gondola.Resources, own map[string]gondola.Resources) func(*pilot.Spec) {
	return func(s *pilot.Spec) {
		s.Limits = machine
		for i := range s.Containers {
			if l, ok := own[s.Containers[i].Name]; ok {
				s.Containers[i].Config.Gondola = &gondola.ContainerExtension{Limits: &l}
			}
		}
	}
}

// shown returns what the first process of a container finds at its start, in its cgroup.
func (m *machine) shown(name string) string {
	m.Helper()
	out := m.start(name, nil, "cgroup", "memory.max", "cpu.max", "pids.max")
	got := []string{out.line(m.T), out.line(m.T), out.line(m.T)}
	if exit := m.wait(name); exit.Code != 0 {
		m.Fatalf("reading the cgroup of %s: %+v", name, exit)
	}
	return strings.Join(got, ", ")
}

func TestContainer_SeesItsLimits(t *testing.T) {
	const mb = 1 << 20
	for _, tc := range []struct {
		name     string
		machine  gondola.Resources
		own      map[string]gondola.Resources
		one, two string
	}{
		{"none", gondola.Resources{}, nil, "max, max 100000, max", "max, max 100000, max"},
		{"the Machine's", gondola.Resources{CPUMillis: 1500, MemoryBytes: 256 * mb}, nil,
			"268435456, 150000 100000, max", "268435456, 150000 100000, max"},
		{"their own", gondola.Resources{}, map[string]gondola.Resources{"one": {CPUMillis: 250, MemoryBytes: 64 * mb}, "two": {MemoryBytes: 96 * mb}},
			"67108864, 25000 100000, max", "100663296, max 100000, max"},
		{"the lower", gondola.Resources{CPUMillis: 1000, MemoryBytes: 128 * mb}, map[string]gondola.Resources{"one": {MemoryBytes: 64 * mb}, "two": {CPUMillis: 4000}},
			"67108864, 100000 100000, max", "134217728, 100000 100000, max"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := boot(t, limited(tc.machine, tc.own))
			for attempt := range 2 { // a restart shows them as well
				for name, want := range map[string]string{"one": tc.one, "two": tc.two} {
					if got := m.shown(name); got != want {
						t.Errorf("run %d of %s shows %s; want %s", attempt, name, got, want)
					}
				}
			}
		})
	}
}

func TestContainer_CannotHaveMoreProcessesThanItsMachine(t *testing.T) {
	m := boot(t, func(s *pilot.Spec) { s.Processes = 100 })
	if got, want := m.shown("one"), "max, max 100000, 100"; got != want {
		t.Errorf("it shows %s; want %s", got, want)
	}
}

func TestContainer_AddedLaterSeesItsLimits(t *testing.T) {
	m := boot(t, limited(gondola.Resources{MemoryBytes: 256 << 20}, nil))
	m.spec.Containers = append(m.spec.Containers, pilot.Container{Name: "late", Image: "probe", Tree: m.spec.Containers[0].Tree})
	if got, want := m.shown("late"), "268435456, max 100000, max"; got != want {
		t.Errorf("it shows %s; want %s", got, want)
	}
}

// TestContainer_CgroupIsAsReadersExpect asks what Go, Java and others look at to find it.
func TestContainer_CgroupIsAsReadersExpect(t *testing.T) {
	m := boot(t, limited(gondola.Resources{CPUMillis: 500, MemoryBytes: 64 << 20}, nil))
	m.start("one", nil, "serve", "8080").line(t)
	for file, want := range map[string]string{
		"/proc/self/cgroup":                 "0::/",
		"/sys/fs/cgroup/cgroup.controllers": "cpu memory pids cpuset",
		"/sys/fs/cgroup/memory.high":        "max",
		"/sys/fs/cgroup/cpu.weight":         "100",
	} {
		if got, st := m.exec("one", "read", file); got != want || st.Code != 0 {
			t.Errorf("%s = %q; want %q", file, got, want)
		}
	}
	controllers, _ := m.exec("one", "read", "/proc/cgroups")
	for _, want := range []string{"cpuset", "cpu", "cpuacct", "memory"} { // Java before 25 asks for them
		if !strings.Contains(controllers, "\n"+want+"\t0\t1\t1") {
			t.Errorf("/proc/cgroups = %q, without %s", controllers, want)
		}
	}
	mounts, _ := m.exec("one", "read", "/proc/self/mountinfo")
	if !strings.Contains(mounts, " / /sys/fs/cgroup ro,") || !strings.Contains(mounts, " - cgroup2 ") {
		t.Errorf("mountinfo = %s", mounts)
	}
	if got, _ := m.exec("one", "fstype", "/sys/fs/cgroup"); got != fmt.Sprintf("%#x", 0x63677270) {
		t.Errorf("statfs says %s; want cgroup2", got)
	}
	if got, st := m.exec("one", "write", "/sys/fs/cgroup/memory.max", "max"); st.Code == 0 {
		t.Errorf("a container changed its limit (%s)", got)
	}
}

// TestContainer_GoSeesItsCPUs is Go's own rule: as many threads as the limit has CPUs, rounded up, two at least, and no more than there are.
func TestContainer_GoSeesItsCPUs(t *testing.T) {
	for millis, threads := range map[int64]int{500: 2, 2500: 3, 0: runtime.NumCPU()} {
		m := boot(t, limited(gondola.Resources{}, map[string]gondola.Resources{"one": {CPUMillis: millis}}))
		want := fmt.Sprint(min(threads, runtime.NumCPU()), runtime.NumCPU())
		if got := m.start("one", nil, "gomaxprocs").line(t); got != want {
			t.Errorf("with %d thousandths of a CPU, GOMAXPROCS and NumCPU are %s; want %s", millis, got, want)
		}
	}
}
