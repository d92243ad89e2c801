package runsc

import (
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/runsc/sandbox"
)

// Inside a sandbox every container has a cgroup (v2) of its own, kept by the sandbox: it counts what the container uses, and shows it and
// the container's limits at /sys/fs/cgroup, where programs look for them. Of these it enforces only the number of processes: CPU and
// memory are limited from outside, by the cgroup of the host and by the pilot.

// guestCgroups is where programs find cgroups.
const guestCgroups = "/sys/fs/cgroup"

// guestControllers is /proc/cgroups of a host with cgroups v2 alone. The sandbox's own lists none of these, and Java before 25 takes what is
// not there for disabled.
const guestControllers = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n"

// guestCgroup makes a container see its own cgroup as the root of /sys/fs/cgroup. controllers is a file with guestControllers.
func guestCgroup(spec *specs.Spec, controllers string) {
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: guestCgroups, Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		specs.Mount{Destination: "/proc/cgroups", Type: "bind", Source: controllers, Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"}})
}

func guestFile(id, name string) control.CgroupControlFile {
	controller, _, _ := strings.Cut(name, ".")
	return control.CgroupControlFile{Controller: controller, Path: "/" + id, Name: name}
}

// guestUsage is what a sandbox has counted for one container.
type guestUsage struct {
	cpu    int64 // ns
	memory int64 // bytes
	pids   int64
}

// readGuest reads a container's cgroup in the sandbox; sandboxes of before they had any tell it another way, memory split evenly.
func readGuest(s *sandbox.Sandbox, id string) (guestUsage, error) {
	stat, err := s.CgroupsReadControlFile(guestFile(id, "cpu.stat"))
	if err != nil {
		ev, err := s.Event(id)
		if err != nil {
			return guestUsage{}, err
		}
		data := ev.Event.Data
		return guestUsage{int64(ev.ContainerUsage[id]), int64(data.Memory.Usage.Usage), int64(data.Pids.Current)}, nil
	}
	u := guestUsage{cpu: 1000 * field(stat, "usage_usec")}
	for name, to := range map[string]*int64{"memory.current": &u.memory, "pids.current": &u.pids} {
		text, err := s.CgroupsReadControlFile(guestFile(id, name))
		if err != nil {
			return u, err
		}
		*to, _ = strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	}
	return u, nil
}

// field returns a number of a "key value" file, zero if it is not there.
func field(text, key string) int64 {
	for line := range strings.Lines(text) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}
