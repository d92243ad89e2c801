package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// meminfo reads a line of /proc/meminfo, in bytes.
func meminfo(key string) (float64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	if kb, ok := kilobytes(string(b))[key]; ok {
		return float64(kb << 10), nil
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", key)
}

// kilobytes reads lines such as "Rss:   12 kB".
func kilobytes(text string) map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			out[strings.TrimSuffix(f[0], ":")], _ = strconv.Atoi(f[1])
		}
	}
	return out
}

// memory is what processes hold, in bytes.
type memory struct{ rss, pss, own float64 } // own: the part of pss that is no cached file

// memoryOf reads what a process holds.
func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, err
	}
	kb := kilobytes(string(b))
	return memory{rss: float64(kb["Rss"] << 10), pss: float64(kb["Pss"] << 10), own: float64((kb["Pss_Anon"] + kb["Pss_Shmem"]) << 10)}, nil
}

func (m memory) plus(o memory) memory {
	return memory{m.rss + o.rss, m.pss + o.pss, m.own + o.own}
}

// cpuOf returns the CPU time that a process has used.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(b), ") ") // the name may hold anything but ") " last
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all of Linux's architectures that matter here
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// cgroup is the group of one Machine, with a part for its pilot and one for its sandbox.
type cgroup string

// cpu returns the CPU time that all processes of the group have used, those that have ended included.
func (c cgroup) cpu() (time.Duration, error) {
	if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpuacct", string(c), "cpuacct.usage")); err == nil { // v1, ns
		ns, err := strconv.Atoi(strings.TrimSpace(string(b)))
		return time.Duration(ns), err
	}
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", string(c), "cpu.stat")) // v2
	if err != nil {
		return 0, fmt.Errorf("CPU time of a Machine: %w", err)
	}
	usage, _, _ := strings.Cut(strings.TrimPrefix(string(b), "usage_usec "), "\n")
	us, err := strconv.Atoi(usage)
	return time.Duration(us) * time.Microsecond, err
}

// memory sums what the group's processes hold, by what they are.
func (c cgroup) memory() (map[string]memory, error) {
	out, seen := map[string]memory{}, map[string]bool{}
	for _, pattern := range []string{"/sys/fs/cgroup/" + string(c) + "/*/cgroup.procs", "/sys/fs/cgroup/*/" + string(c) + "/*/cgroup.procs"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			procs, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			for _, s := range strings.Fields(string(procs)) {
				pid, err := strconv.Atoi(s)
				if err != nil || seen[s] {
					continue
				}
				seen[s] = true
				m, err := memoryOf(pid)
				if err != nil {
					continue // it has ended meanwhile
				}
				name := nameOf(pid)
				out[name] = out[name].plus(m)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no process in cgroup %s", c)
	}
	return out, nil
}

// nameOf says what a process of a Machine is.
func nameOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	first, _, _ := strings.Cut(string(b), "\x00")
	switch base := filepath.Base(first); {
	case strings.Contains(base, "gondola-pilot"):
		return "pilot"
	case strings.Contains(base, "sandbox"):
		return "sandbox"
	case strings.Contains(base, "gofer"):
		return "gofer"
	default:
		return "stubs" // systrap's: their memory is the programs'
	}
}
