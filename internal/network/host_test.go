package network_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/network"
)

const childEnv = "GONDOLA_NETWORK_TEST_HOST"

// onHost runs the test on a host of its own: this test binary again, in new network and mount namespaces, where only lo is. It returns true
// in that process, and false in the first one when the other has ended.
func onHost(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	if os.Getenv(childEnv) == t.Name() {
		for _, dir := range []string{"/run", "/tmp"} {
			check(t, unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
		}
		lo, err := netlink.LinkByName("lo")
		check(t, err)
		check(t, netlink.LinkSetUp(lo))
		return true
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), childEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", bytes.TrimSpace(out))
	if err != nil {
		t.Fatalf("on its own host: %v", err)
	}
	return false
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *network.Network {
	t.Helper()
	n, err := network.Open(config())
	check(t, err)
	t.Cleanup(func() { listable(t) })
	return n
}

// listable lists all rules of the host and of its gateways by the program that others keep their firewalls with: they must be able to.
func listable(t *testing.T) {
	t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Log("the program nft is not installed (apt-get install nftables): nobody lists the rules")
		return
	}
	hosts := [][]string{{nft}}
	names, _ := filepath.Glob("/run/netns/*")
	for _, ns := range names {
		hosts = append(hosts, []string{"nsenter", "--net=" + ns, nft})
	}
	for _, by := range hosts { // those that are left of namespaces are skipped
		if len(by) > 1 && exec.Command(by[0], by[1], "true").Run() != nil {
			continue
		}
		for _, how := range []string{"-s", "-j"} {
			list := append(slices.Clone(by), how, "list", "ruleset")
			if out, err := exec.Command(list[0], list[1:]...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("netlink: Error")) {
				t.Errorf("%s: %v\n%s", list, err, out)
			}
		}
	}
}

func config() network.Config {
	return network.Config{Instance: "test1234", StateFile: "/tmp/network.json", Log: slog.New(slog.DiscardHandler)}
}

// guest is a Machine of a test: an attached namespace in which sockets are opened.
type guest struct {
	network.Machine
	network.Attached
	t *testing.T
}

func attach(t *testing.T, n *network.Network, number uint16, name string, id uint32) *guest {
	t.Helper()
	m := network.Machine{ID: gondola.NewMachineID(), Worker: 1, Number: number, Network: name, NetworkID: id}
	before := n.Addresses(m)
	a, err := n.Attach(t.Context(), m, true)
	check(t, err)
	if !slices.Equal(before, a.Addresses) {
		t.Errorf("attached with %v, and told before %v", a.Addresses, before)
	}
	return &guest{m, a, t}
}

func (g *guest) v4() netip.Addr { return g.Addresses[0] }
func (g *guest) v6() netip.Addr { return g.Addresses[1] }

// do runs f on a thread inside the Machine's namespace; a nil guest is the host. Sockets stay there; goroutines of f must not open any.
func (g *guest) do(f func() error) error {
	if g == nil {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		ns, err := netns.GetFromPath(g.NetNS)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// serve answers every TCP connection and UDP packet on the port with "<name> <address of the client>".
func (g *guest) serve(t *testing.T, name string, addr netip.Addr, port uint16) {
	t.Helper()
	at := netip.AddrPortFrom(addr, port)
	check(t, g.do(func() error {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s", name, c.RemoteAddr())
				c.Close()
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				u.WriteToUDPAddrPort(fmt.Appendf(nil, "%s %s", name, from), from)
			}
		}()
		return nil
	}))
}

// ask connects to a server of serve and returns its name and the address that it saw.
func (g *guest) ask(proto, addr string) (name, from string, err error) {
	return g.askFrom(proto, addr, netip.AddrPort{})
}

func (g *guest) askFrom(proto, addr string, source netip.AddrPort) (name, from string, err error) {
	err = g.do(func() error {
		d := net.Dialer{Timeout: 2 * time.Second}
		if source.Addr().IsValid() && proto == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(source)
		} else if source.Port() != 0 {
			d.LocalAddr = net.UDPAddrFromAddrPort(source)
		}
		c, err := d.Dial(proto, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		var b []byte
		if proto == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			b = make([]byte, 100)
			k, err := c.Read(b)
			if err != nil {
				return err
			}
			b = b[:k]
		} else if b, err = io.ReadAll(c); err != nil {
			return err
		}
		name, from, _ = strings.Cut(string(b), " ")
		if ap, err := netip.ParseAddrPort(from); err == nil {
			from = ap.Addr().String()
		}
		return nil
	})
	return name, from, err
}

func (g *guest) reaches(t *testing.T, proto, addr, want string) (from string) {
	t.Helper()
	name, from, err := g.ask(proto, addr)
	if err != nil || name != want {
		t.Errorf("%s to %s: answer of %q, %v; want %q", proto, addr, name, err, want)
	}
	return from
}

// refused wants the answer no, and to the first packet, which is sent again after a second. A machine that is busy may be late by itself, and is
// asked again.
func (g *guest) refused(t *testing.T, proto, addr string) {
	t.Helper()
	for try := 1; ; try++ {
		begin := time.Now()
		name, _, err := g.ask(proto, addr)
		took := time.Since(begin)
		switch {
		case g == nil && proto == "udp" && errors.Is(err, syscall.EPERM): // how the kernel tells a local sender
		case !errors.Is(err, syscall.ECONNREFUSED):
			t.Errorf("%s to %s: answer of %q, %v; want connection refused", proto, addr, name, err)
		case took < 800*time.Millisecond:
		case try < 5:
			continue
		default:
			t.Errorf("%s to %s: refused after %v, when the first packet was sent again; want it at once", proto, addr, took)
		}
		return
	}
}

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

func n4n6(n *network.Network) []netip.Addr {
	v4, v6 := n.Plan().Gateway()
	return []netip.Addr{v4, v6}
}

// serviceChains lists the chains of services in the instance's table.
func serviceChains(t *testing.T) (names []string) {
	t.Helper()
	c, err := nftables.New()
	check(t, err)
	chains, err := c.ListChains()
	check(t, err)
	for _, ch := range chains {
		if strings.HasPrefix(ch.Name, "service-") || strings.HasPrefix(ch.Name, "sticky-") {
			names = append(names, ch.Name)
		}
	}
	return names
}

// newNetNS makes a network namespace and mounts it at path.
func newNetNS(t *testing.T, path string) netns.NsHandle {
	t.Helper()
	check(t, os.WriteFile(path, nil, 0o444))
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
		}
		made <- err
	}()
	check(t, <-made)
	ns, err := netns.GetFromPath(path)
	check(t, err)
	return ns
}

func routeVia(to netip.Addr, via string) error {
	return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}, Gw: net.ParseIP(via)})
}
