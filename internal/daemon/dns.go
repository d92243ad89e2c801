package daemon

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// resolvFiles are where this host says whom it asks for names; the second is behind systemd-resolved, whose own address is a loopback one.
var resolvFiles = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// maxNameservers is what resolvers read of a resolv.conf.
const maxNameservers = 3

// nameservers returns the host's nameservers that Machines can reach: loopback and link-local ones they cannot, nor one in the range of
// Machines. The first file that has any counts.
func nameservers(machines netip.Prefix, files ...string) []string {
	for _, f := range files {
		var out []string
		b, _ := os.ReadFile(f)
		for l := range strings.Lines(string(b)) {
			fields := strings.Fields(l)
			if len(fields) < 2 || fields[0] != "nameserver" || len(out) == maxNameservers {
				continue
			}
			a, err := netip.ParseAddr(fields[1])
			if err != nil || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || machines.Contains(a.Unmap()) || slices.Contains(out, a.String()) {
				continue
			}
			out = append(out, a.String())
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}
