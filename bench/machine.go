package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gondola"
)

// The demo image, which is built in: what is measured needs no registry.
const (
	helloImage = "gondola.local/hello"
	helloPort  = 8080
	appName    = gondola.AppName("bench")
)

// The drivers that are measured beside each other.
const (
	gvisor = "gvisor"
	runc   = "runc"
)

// machine measures create → first byte through the API, in turns with a bare runtime that runs the same program.
func (b *bench) machine(ctx context.Context) error {
	if err := b.ensureApp(ctx); err != nil {
		return err
	}
	return errors.Join(b.createdBy(ctx, gvisor), b.createdBy(ctx, runc))
}

func (b *bench) createdBy(ctx context.Context, driver string) error {
	bare, err := b.newBare(driver)
	if err != nil {
		return err
	}
	n := b.rounds(30, 3)
	var ours, theirs times
	for range n {
		d, err := b.createOnce(ctx, driver)
		if err != nil {
			return err
		}
		ours = append(ours, d)
		if d, err = bare.once(ctx); err != nil {
			return fmt.Errorf("bare %s: %w", driver, err)
		}
		theirs = append(theirs, d)
	}
	b.add(fmt.Sprintf("Machine on %s: POST to the API → first byte of its HTTP reply, p50 / p99 of %d", driver, n), ours.String(),
		fmt.Sprintf("bare `%s run` of the same program, network ready: %s", map[string]string{gvisor: "runsc", runc: "runc"}[driver], theirs))
	return nil
}

func (b *bench) ensureApp(ctx context.Context) error {
	_, err := b.host.api.CreateApp(ctx, gondola.NewApp{Name: appName, Org: "personal"})
	if errors.Is(err, gondola.ErrNameTaken) {
		return nil
	}
	return err
}

// create makes a Machine of the demo image.
func (b *bench) create(ctx context.Context, driver string) (gondola.Machine, error) {
	return b.host.api.Create(ctx, appName, gondola.CreateRequest{Config: gondola.Config{Image: helloImage, Gondola: &gondola.ConfigExtension{Driver: driver}}})
}

// createOnce makes a Machine, waits for its first byte and destroys it.
func (b *bench) createOnce(ctx context.Context, driver string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	began := time.Now()
	m, err := b.create(ctx, driver)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.destroy(context.WithoutCancel(ctx), m)) }()
	addr, err := netip.ParseAddr(m.PrivateIP)
	if err != nil {
		return 0, err
	}
	err = firstByte(ctx, netip.AddrPortFrom(addr, helloPort))
	return time.Since(began), err
}

// destroy removes a Machine and waits until it is gone.
func (b *bench) destroy(ctx context.Context, m gondola.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := b.host.api.Destroy(ctx, m.Ref(), true); err != nil {
		return err
	}
	_, err := b.host.api.Wait(ctx, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Destroyed}, Timeout: 30 * time.Second})
	return err
}

// firstByte asks for / until a byte of an answer comes.
func firstByte(ctx context.Context, addr netip.AddrPort) error {
	// Short, since a packet that comes before the network is there is lost, and the kernel would repeat it only after a second.
	dialer := net.Dialer{Timeout: 10 * time.Millisecond}
	for {
		c, err := dialer.DialContext(ctx, "tcp", addr.String())
		if err == nil {
			err = askOnce(c, addr)
			c.Close()
			if err == nil {
				return nil
			}
		}
		if ended := wait(ctx, time.Millisecond); ended != nil {
			return fmt.Errorf("no byte from %s: %w (%w)", addr, ended, err)
		}
	}
}

func askOnce(c net.Conn, addr netip.AddrPort) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", addr); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}
