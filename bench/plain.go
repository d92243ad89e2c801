package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// plainAddress is where the demo image's program listens as a process of the host.
const plainAddress = "127.0.0.1:18080"

// startPlain runs the demo image's program as a process of this host, with nothing around it.
func (b *bench) startPlain(ctx context.Context) (stop func() error, err error) {
	c := exec.Command(filepath.Join(b.bin, "gondola-hello"))
	c.Args[0] = "/hello"
	c.Env = []string{"PORT=18080"}
	if err := c.Start(); err != nil {
		return nil, err
	}
	stop = func() error {
		err := c.Process.Signal(os.Kill)
		_ = c.Wait() // says that it was killed
		return err
	}
	if err := b.reachable(ctx, plainAddress); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}
