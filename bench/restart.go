package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gondola"
)

// restart measures how soon a Machine that is stopped answers again, in turns with a bare runsc that runs the same program.
func (b *bench) restart(ctx context.Context) (err error) {
	if err := b.ensureApp(ctx); err != nil {
		return err
	}
	bare, err := b.newBare(gvisor)
	if err != nil {
		return err
	}
	m, err := b.create(ctx, gvisor)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.destroy(context.WithoutCancel(ctx), m)) }()
	addr, err := netip.ParseAddr(m.PrivateIP)
	if err != nil {
		return err
	}
	if err := b.reachable(ctx, netip.AddrPortFrom(addr, helloPort).String()); err != nil {
		return err
	}
	n := b.rounds(20, 3)
	var ours, stopped, theirs times
	for range n {
		stop, start, err := b.stopAndStart(ctx, m, addr)
		if err != nil {
			return err
		}
		stopped, ours = append(stopped, stop), append(ours, start)
		d, err := bare.once(ctx)
		if err != nil {
			return fmt.Errorf("runsc: %w", err)
		}
		theirs = append(theirs, d)
	}
	b.add(fmt.Sprintf("Machine: start of a stopped one → first byte of its HTTP reply, p50 / p99 of %d", n), ours.String(),
		"bare `runsc run` of the same program, network ready: "+theirs.String())
	b.add(fmt.Sprintf("Machine: stop → stopped, p50 / p99 of %d", n), stopped.String(), "")
	return nil
}

// stopAndStart returns how long a Machine took to stop, and then from the request to start until its first byte.
func (b *bench) stopAndStart(ctx context.Context, m gondola.Machine, addr netip.Addr) (stop, start time.Duration, err error) {
	return b.downAndUp(ctx, m, addr, gondola.Stopped, func(ctx context.Context) error { return b.host.api.Stop(ctx, m.Ref(), gondola.StopRequest{}) })
}

// suspendAndStart is stopAndStart with a suspension.
func (b *bench) suspendAndStart(ctx context.Context, m gondola.Machine, addr netip.Addr) (suspend, start time.Duration, err error) {
	return b.downAndUp(ctx, m, addr, gondola.Suspended, func(ctx context.Context) error { return b.host.api.Suspend(ctx, m.Ref()) })
}

// downAndUp returns how long it took from ask until a Machine was in the state down, and then from the request to start until its first byte.
func (b *bench) downAndUp(ctx context.Context, m gondola.Machine, addr netip.Addr, down gondola.State, ask func(context.Context) error) (ended, started time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := time.Now()
	if err := ask(ctx); err != nil {
		return 0, 0, err
	}
	if _, err := b.host.api.Wait(ctx, m.Ref(), gondola.WaitRequest{States: []gondola.State{down}, Timeout: time.Minute}); err != nil {
		return 0, 0, err
	}
	ended = time.Since(began)
	began = time.Now()
	if _, err := b.host.api.Start(ctx, m.Ref()); err != nil {
		return 0, 0, err
	}
	err = firstByte(ctx, netip.AddrPortFrom(addr, helloPort))
	return ended, time.Since(began), err
}
