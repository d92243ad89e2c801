package network_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// A sandbox that is killed closes no connection. Who has one with it, directly or through a Service, as client or as server, learns at once that
// it is gone, as of a process that is killed.
func TestServices_ConnectionsWithAMachineThatIsGoneAreReset(t *testing.T) {
	if !onHost(t) {
		return
	}
	for name, first := range map[string]bool{"its service is set first": true, "it goes first": false} {
		s := withServices(t)
		s.b.hold(t, 8082)
		accepted := s.a.hold(t, 8081)
		s.set(t, 0, ports(s.b, 8082)...)
		var conns []net.Conn
		for _, from := range []*guest{s.a, nil} {
			for _, vip := range s.vips() {
				conns = append(conns, from.connect(t, at(vip, 80)))
			}
			for _, a := range s.b.Addresses {
				conns = append(conns, from.connect(t, at(a, 8082)))
			}
		}
		for _, a := range s.a.Addresses {
			s.b.connect(t, at(a, 8081))
			conns = append(conns, <-accepted)
		}
		if first {
			s.set(t, 0, ports(s.c, 8080)...)
		}
		check(t, s.Detach(t.Context(), s.b.Machine.ID))
		if !first {
			s.set(t, 0, ports(s.c, 8080)...)
		}
		for _, c := range conns {
			check(t, c.SetDeadline(time.Now().Add(5*time.Second)))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %s to %s ends with %v, want a reset", name, c.LocalAddr(), c.RemoteAddr(), err)
			}
			c.Close()
		}
		for _, from := range []*guest{s.a, nil} {
			for _, a := range s.b.Addresses {
				from.refused(t, "tcp", at(a, 8082))
				from.refused(t, "udp", at(a, 8082))
			}
		}
		for _, g := range []*guest{s.a, s.c} {
			check(t, s.Detach(t.Context(), g.Machine.ID))
		}
	}
}

// hold accepts TCP connections on the port and says nothing.
func (g *guest) hold(t *testing.T, port uint16) (accepted <-chan net.Conn) {
	t.Helper()
	conns := make(chan net.Conn, 8)
	for _, a := range g.Addresses {
		check(t, g.do(func() error {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					t.Cleanup(func() { c.Close() })
					conns <- c
				}
			}()
			return nil
		}))
	}
	return conns
}

// connect opens a TCP connection from the guest, or from the host.
func (g *guest) connect(t *testing.T, addr string) (c net.Conn) {
	t.Helper()
	check(t, g.do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}
