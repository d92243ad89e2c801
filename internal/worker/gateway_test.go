package worker_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gondola"
)

func atGateway(use gondola.GatewayUse) gondola.Config {
	c := longRunning()
	c.Gondola = &gondola.ConfigExtension{Gateway: &use}
	return c
}

func TestGateway_GivesAMachineItsAddresses(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30})
	w, _ := r.run()
	node := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} // of the fake host's gateway "node"
	m := r.create(w, gondola.CreateRequest{Config: atGateway(gondola.GatewayUse{Name: "node", HostNetwork: true})})
	m = r.await(w, m.ID, gondola.Started)
	if !slices.Equal(m.Gondola.Addresses, node) || !slices.Equal(m.Gondola.HostIPs, node) {
		t.Errorf("addresses %v, of the host %v: want both %v", m.Gondola.Addresses, m.Gondola.HostIPs, node)
	}
	other := r.create(w, gondola.CreateRequest{Config: atGateway(gondola.GatewayUse{Name: "node", Ports: []gondola.HostPort{{HostPort: 80, Port: 80}}})})
	if other = r.await(w, other.ID, gondola.Started); slices.Equal(other.Gondola.Addresses, node) {
		t.Errorf("a Machine with a port of the gateway has its addresses: %v", other.Gondola.Addresses)
	}
}

func TestGateway_ThatIsNotHereIsRefusedAsABidIs(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30})
	w, _ := r.run()
	_, err := w.Create(t.Context(), app, gondola.CreateRequest{Config: atGateway(gondola.GatewayUse{Name: "elsewhere", HostNetwork: true})})
	if !errors.Is(err, gondola.ErrCapacity) || len(gondola.Refusals(err)) != 1 || !strings.Contains(err.Error(), "gateway elsewhere of network default") {
		t.Errorf("Create = %v (refusals %v), want ErrCapacity, so that another worker is tried", err, gondola.Refusals(err))
	}
}

func TestGateway_RefusesWhatMakesNoSense(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30})
	w, _ := r.run()
	path := func(p gondola.TempVolumeExtension) gondola.Config {
		c := atGateway(gondola.GatewayUse{Name: "node"})
		c.Volumes = []gondola.TempVolume{{Name: "v", Gondola: &p}}
		return c
	}
	bare := path(gondola.TempVolumeExtension{Path: "/x"})
	bare.Gondola = nil
	sysctl := atGateway(gondola.GatewayUse{Name: "node", HostNetwork: true})
	sysctl.Containers = []gondola.Container{{Name: "main", Image: "test/app",
		Gondola: &gondola.ContainerExtension{Security: &gondola.Security{Sysctls: map[string]string{"net.core.somaxconn": "9"}}}}}
	for _, tt := range []struct {
		what   string
		config gondola.Config
	}{
		{"gateway.name is missing", atGateway(gondola.GatewayUse{})},
		{"every port of the machine", atGateway(gondola.GatewayUse{Name: "node", HostNetwork: true, Ports: []gondola.HostPort{{HostPort: 1, Port: 1}}})},
		{"ports[0]: host_port and port", atGateway(gondola.GatewayUse{Name: "node", Ports: []gondola.HostPort{{HostPort: 1}}})},
		{`protocol "sctp"`, atGateway(gondola.GatewayUse{Name: "node", Ports: []gondola.HostPort{{HostPort: 1, Port: 1, Protocol: "sctp"}}})},
		{"must be absolute", path(gondola.TempVolumeExtension{Path: "x"})},
		{`type "socket"`, path(gondola.TempVolumeExtension{Path: "/x", Type: "socket"})},
		{"must name whose path", bare},
		{"net.core.somaxconn", sysctl},
	} {
		if _, err := w.Create(t.Context(), app, gondola.CreateRequest{Config: tt.config}); !errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), tt.what) {
			t.Errorf("Create = %v, want ErrInvalid with %q", err, tt.what)
		}
	}
}
