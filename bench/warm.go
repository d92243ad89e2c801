package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// warmTime is longer than a sandbox takes to stand ready, once the one before was taken.
const warmTime = 2 * time.Second

// warm measures create → first byte on gVisor where a sandbox stands ready (warm: 1), in turns of ten with the same where none does.
func (b *bench) warm(ctx context.Context) error {
	if err := b.ensureApp(ctx); err != nil {
		return err
	}
	var cold, warm times
	for range b.rounds(2, 1) {
		for _, turn := range []struct {
			config string
			took   *times
		}{{"", &cold}, {"warm: 1\n", &warm}} {
			if err := b.restartWith(ctx, turn.config); err != nil {
				return err
			}
			for range b.rounds(10, 3) {
				if err := wait(ctx, warmTime); err != nil {
					return err
				}
				d, err := b.createOnce(ctx, gvisor)
				if err != nil {
					return err
				}
				*turn.took = append(*turn.took, d)
			}
		}
	}
	b.add(fmt.Sprintf("Machine on gVisor with `warm: 1`: POST to the API → first byte of its HTTP reply, p50 / p99 of %d", len(warm)), warm.String(),
		"without, in turns of ten: "+cold.String())
	return errors.Join(ctx.Err(), b.restartWith(ctx, ""))
}

// restartWith starts the platform anew with further lines in its config file.
func (b *bench) restartWith(ctx context.Context, config string) error {
	if err := b.host.stop(); err != nil {
		return err
	}
	b.host.config = config
	_, err := b.host.start(ctx)
	return err
}
