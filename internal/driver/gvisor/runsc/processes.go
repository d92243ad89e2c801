package runsc

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A Machine's processes are limited three times. Inside, by the cgroup of each container (guestFiles), and by a resource limit, which to the
// sandbox's kernel is one of each user over all containers: a fork that is one too many fails with EAGAIN, and everything else goes on. What gets
// around both (a resource limit means nothing to CAP_SYS_RESOURCE, several containers have several cgroups) meets the limit of the host's cgroup,
// at which the sandbox as a whole may end.

// limitProcesses sets the resource limit; zero is none.
func limitProcesses(p *specs.Process, n int64) {
	if n > 0 {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: uint64(n), Hard: uint64(n)})
	}
}

// hostProcesses is how many processes and threads of the host a sandbox may have in which there may be n: gVisor runs up to three for one of
// the guest's, and some of its own.
func hostProcesses(n int64) int64 {
	if n == 0 {
		return 0
	}
	return 4*n + 1024
}
