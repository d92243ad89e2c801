package oci

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"gondola"
	"gondola/internal/driver/cgroup"
)

// Memory returns what a cgroup uses in the API's terms.
func Memory(u cgroup.Usage) gondola.MemoryStats {
	return gondola.MemoryStats{Usage: u.Memory, WorkingSet: u.WorkingSet, RSS: u.RSS}
}

// Network sums the interfaces, without the loopback, of the network namespace that a process is in.
func Network(pid int) (n gondola.NetworkStats) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return n // the sandbox has just ended
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) < 11 {
			continue
		}
		for i, to := range map[int]*int64{0: &n.RxBytes, 1: &n.RxPackets, 2: &n.RxErrors, 8: &n.TxBytes, 9: &n.TxPackets, 10: &n.TxErrors} {
			v, _ := strconv.ParseInt(fields[i], 10, 64)
			*to += v
		}
	}
	return n
}
