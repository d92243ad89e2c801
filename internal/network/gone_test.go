package network_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// A sandbox that is killed closes no connection. Who has one to it, through a Service, learns at once that it is gone.
func TestServices_ConnectionsToAMachineThatIsGoneAreReset(t *testing.T) {
	if !onHost(t) {
		return
	}
	for name, first := range map[string]bool{"its service is set first": true, "it goes first": false} {
		s := withServices(t)
		s.b.hold(t, 8082)
		both := append(ports(s.b, 8082), ports(s.c, 8080)...)
		s.set(t, 0, ports(s.b, 8082)...)
		var conns []net.Conn
		for _, from := range []*guest{s.a, nil} {
			for _, vip := range s.vips() {
				conns = append(conns, from.connect(t, at(vip, 80)))
			}
		}
		s.set(t, 0, both...)
		if first {
			s.set(t, 0, ports(s.c, 8080)...)
		}
		check(t, s.Detach(t.Context(), s.b.Machine.ID))
		if !first {
			s.set(t, 0, ports(s.c, 8080)...)
		}
		for _, c := range conns {
			check(t, c.SetDeadline(time.Now().Add(5*time.Second)))
			_, err := c.Write([]byte("x"))
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("%s: %s to %s ends with %v, want a reset", name, c.LocalAddr(), c.RemoteAddr(), err)
			}
			c.Close()
		}
		for _, g := range []*guest{s.a, s.c} {
			check(t, s.Detach(t.Context(), g.Machine.ID))
		}
	}
}

// hold accepts TCP connections on the port and says nothing.
func (g *guest) hold(t *testing.T, port uint16) {
	t.Helper()
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
				}
			}()
			return nil
		}))
	}
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
