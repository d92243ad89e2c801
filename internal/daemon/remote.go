package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"gondola"
	"gondola/internal/auth"
)

// Access to the APIs from other machines, on the addresses that Config.Listen names and on no other: the Machines API by TLS with the
// platform's own CA and a token, the Kubernetes API by passing connections on to the API server, which does its own TLS.

// caFile keeps the platform's certificate authority.
const caFile = "ca.pem"

// remoteListeners are the sockets of one address in Config.Listen.
type remoteListeners struct {
	address    string
	api        net.Listener
	kubernetes net.Listener // nil without Kubernetes
}

// listenRemote takes the addresses for other machines, before anything is made.
func (p *platform) listenRemote() (err error) {
	defer func() {
		if err != nil {
			p.closeRemote()
		}
	}()
	_, port, err := net.SplitHostPort(p.Config.API)
	if err != nil {
		return err
	}
	for _, address := range p.Config.Listen {
		r := remoteListeners{address: address}
		if r.api, err = listenAt(address, port, "the Machines API"); err != nil {
			return err
		}
		p.remote = append(p.remote, r)
		if p.NewCluster == nil {
			continue
		}
		if p.remote[len(p.remote)-1].kubernetes, err = listenAt(address, strconv.Itoa(p.Config.KubernetesPort), "the Kubernetes API"); err != nil {
			return err
		}
	}
	return nil
}

func listenAt(address, port, what string) (net.Listener, error) {
	at := net.JoinHostPort(address, port)
	l, err := net.Listen("tcp", at)
	var op *net.OpError
	if errors.As(err, &op) && errors.Is(err, errNotHere) {
		return nil, gondola.Errorf(gondola.ErrInvalid, "listen on %s: this host has no such address: see its own with `ip -brief address`", address)
	}
	if err != nil {
		return nil, inUse(err, at, what, "listen on another address")
	}
	return l, nil
}

func (p *platform) closeRemote() {
	for _, r := range p.remote {
		r.api.Close()
		if r.kubernetes != nil {
			r.kubernetes.Close()
		}
	}
	p.remote = nil
}

// remoteNames are the names under which other machines reach this one.
func (c *Config) remoteNames() []string {
	return append(append([]string{}, c.Listen...), c.TLSNames...)
}

// remoteTLS is the TLS configuration of the Machines API for other machines.
func (p *platform) remoteTLS() (*tls.Config, error) {
	ca, err := auth.LoadOrCreateCA(filepath.Join(p.Config.Data, caFile))
	if err != nil {
		return nil, err
	}
	return ca.HostConfig(p.Config.remoteNames()), nil
}

// forwardLinger is how long a client may go on sending to a server that has ended.
const forwardLinger = 5 * time.Second

// forward passes connections on to another address, both ways, until ctx ends.
type forward struct {
	listener net.Listener
	to       netip.AddrPort
	ready    chan struct{}
}

func newForward(l net.Listener, to netip.AddrPort) *forward {
	return &forward{listener: l, to: to, ready: make(chan struct{})}
}

func (f *forward) String() string         { return fmt.Sprintf("%s to %s", f.listener.Addr(), f.to) }
func (f *forward) Ready() <-chan struct{} { return f.ready }

func (f *forward) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { f.listener.Close() })
	defer stop()
	close(f.ready)
	var wg sync.WaitGroup
	defer wg.Wait()
	backoff, failures := gondola.Backoff{First: 5 * time.Millisecond, Max: time.Second}, 0
	for {
		c, err := f.listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // no descriptor is free, say: one will be
			pause(ctx, backoff.Wait(failures))
			failures++
			continue
		}
		failures = 0
		wg.Go(func() { f.pass(ctx, c.(*net.TCPConn)) })
	}
}

// pass connects c with a connection of its own to the other side; the end of one direction is handed on. When the other side has ended, c has
// some seconds more.
func (f *forward) pass(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	d := net.Dialer{Timeout: 5 * time.Second}
	other, err := d.DialContext(ctx, "tcp", f.to.String())
	if err != nil {
		return
	}
	defer other.Close()
	stop := context.AfterFunc(ctx, func() { c.Close(); other.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(other, c)
		_ = other.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, other)
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(forwardLinger))
	<-done
}

// Access is what a program on another machine needs to reach this platform, beside a token.
type Access struct {
	URLs []string // of the Machines API, one per address of Config.Listen
	CA   []byte   // PEM, what it has to trust
}

// RemoteAccess says where the platform of a data directory is reached from other machines, and by which certificate.
func RemoteAccess(c Config) (Access, error) {
	c, err := c.complete()
	if err != nil {
		return Access{}, err
	}
	if _, err := os.Stat(filepath.Join(c.Data, "token")); errors.Is(err, os.ErrNotExist) {
		return Access{}, gondola.Errorf(gondola.ErrNotFound, "there is no gondola in %s: choose the data directory with --data, or start one with: gondola up", c.Data)
	}
	ca, err := auth.LoadOrCreateCA(filepath.Join(c.Data, caFile))
	if err != nil {
		return Access{}, err
	}
	a := Access{CA: ca.CertPEM()}
	_, port, err := net.SplitHostPort(c.API)
	for _, address := range c.remoteNames() {
		a.URLs = append(a.URLs, "https://"+net.JoinHostPort(address, port))
	}
	return a, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
