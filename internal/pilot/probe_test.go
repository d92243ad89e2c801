package pilot

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"gondola"
)

// TestElsewhere_NotTheHost asks which hosts a probe may name; nothing is dialled.
func TestElsewhere_NotTheHost(t *testing.T) {
	node := netip.MustParseAddr("198.51.100.1")
	p := &prober{spec: &Spec{NetNS: "/run/netns/m", HostIPs: []netip.Addr{node}}}
	refused := []string{"127.0.0.1", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "224.0.0.1", "255.255.255.255", "::ffff:169.254.169.254"}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		refused = append(refused, i.(*net.IPNet).IP.String())
	}
	for _, host := range refused {
		if a, err := p.elsewhere(t.Context(), host); !errors.Is(err, gondola.ErrForbidden) {
			t.Errorf("a probe of %s goes to %s, %v, want %v", host, a, err, gondola.ErrForbidden)
		}
	}
	for _, host := range []string{"198.51.100.7", "10.64.16.2", "fdaa:0:1:0:1:0:2:2", node.String()} {
		if a, err := p.elsewhere(t.Context(), host); err != nil || a.String() != host {
			t.Errorf("a probe of %s goes to %s, %v", host, a, err)
		}
	}
}
