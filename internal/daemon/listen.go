package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"gondola"
)

const (
	dnsPort     = 53
	kubeletPort = 10250
)

// listen takes the address of the API and tries those that the cluster will need, so that a port in use is told before anything is made.
// Connections to the API wait until it is served.
func (p *platform) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", p.Config.API)
	if err != nil {
		return nil, inUse(err, p.Config.API, "the Machines API", "set another `api` in "+DefaultConfigFile)
	}
	if err := p.listenRemote(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if p.NewCluster == nil {
		return l, nil
	}
	if err := p.tryCluster(); err != nil {
		p.closeRemote()
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// listenMachines takes the socket to which pilots bring what their Machines ask, from a daemon that was killed too.
func listenMachines(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for machines: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for machines: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}

// tryCluster tries the addresses of Kubernetes, which this host need not have yet.
func (p *platform) tryCluster() error {
	plan, err := p.plan()
	if err != nil {
		return err
	}
	cluster, _, err := plan.ClusterAddress(1)
	if err != nil {
		return err
	}
	other := "or start without Kubernetes: gondola up --no-kubernetes"
	if err := try(cluster, p.Config.KubernetesPort, "the Kubernetes API", "set another `kubernetesPort` in "+DefaultConfigFile); err != nil {
		return err
	}
	return try(cluster, dnsPort, "DNS of the cluster", "let it listen on its own addresses only, "+other)
}

// try listens for a moment on an address that may be there or not.
func try(a netip.Addr, port int, what, way string) error {
	free := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }), err)
	}}
	address := netip.AddrPortFrom(a, uint16(port)).String()
	l, err := free.Listen(context.Background(), "tcp4", address)
	if err != nil {
		return inUse(err, address, what, way)
	}
	return l.Close()
}

// errNotHere is what listening on an address of another host gives.
const errNotHere = syscall.EADDRNOTAVAIL

func inUse(err error, address, what, way string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen on %s for %s: %w", address, what, err)
	}
	_, port, _ := net.SplitHostPort(address)
	return gondola.Errorf(gondola.ErrConflict, "%s, for %s, is in use by another program: see which with `ss -ltnp sport = :%s` and stop it, or %s",
		address, what, port, way)
}
