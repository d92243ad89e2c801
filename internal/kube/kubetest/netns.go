// Package kubetest is the test kit of packages that need a cluster: a network namespace for all their tests, a cluster in this process that is ready,
// and Machines on driver/fake for it.
package kubetest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// inNetNS is set in the process that has the namespace.
const inNetNS = "GONDOLA_KUBE_TEST_NETNS"

// InNetNS runs a package's tests in a network namespace of their own, so that nothing of their cluster is seen outside, and returns what TestMain is to
// exit with. lo has these addresses there, the API server's first. Without root there is no namespace, and what needs one skips (NeedNetNS).
func InNetNS(m *testing.M, addresses ...netip.Addr) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inNetNS) == "" {
		return again()
	}
	if err := setUp(addresses); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// NeedNetNS skips a test that has no namespace.
func NeedNetNS(t testing.TB) {
	t.Helper()
	if os.Getenv(inNetNS) == "" {
		t.Skip("needs root: the cluster runs in a network namespace of its own")
	}
}

// again runs this program in a new namespace.
func again() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNetNS+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if err == nil || errors.As(err, new(*exec.ExitError)) {
		return cmd.ProcessState.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "network namespace for tests:", err)
	return 1
}

// setUp gives lo the addresses, and Service ranges of both families.
func setUp(addresses []netip.Addr) error {
	lines := []string{"link set lo up"}
	for _, a := range addresses {
		lines = append(lines, "addr add "+netip.PrefixFrom(a, a.BitLen()).String()+" dev lo")
	}
	lines = append(lines, "route add local 10.43.0.0/16 dev lo src "+addresses[0].String(), "-6 route add local fd43::/108 dev lo")
	for _, l := range lines {
		if out, err := exec.Command("ip", strings.Fields(l)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", l, err, out)
		}
	}
	return nil
}
