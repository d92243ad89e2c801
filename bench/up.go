package main

import (
	"context"
	"fmt"
	"time"
)

// up measures the first start, in an empty data directory, and later ones. It leaves the platform running.
func (b *bench) up(ctx context.Context) error {
	cold, err := b.host.start(ctx)
	if err != nil {
		return err
	}
	b.add("`gondola up`, first start → kubectl answers; → ready", seconds(cold.answered)+"; "+seconds(cold.ready), "")
	n := b.rounds(5, 1)
	var answered, ready, stopped times
	for range n {
		began := time.Now()
		if err := b.host.stop(); err != nil {
			return err
		}
		stopped = append(stopped, time.Since(began))
		warm, err := b.host.start(ctx)
		if err != nil {
			return err
		}
		answered, ready = append(answered, warm.answered), append(ready, warm.ready)
	}
	b.add(fmt.Sprintf("`gondola up`, later starts → kubectl answers; → ready (slowest of %d)", n),
		seconds(answered.quantile(1))+"; "+seconds(ready.quantile(1)), "")
	b.add("Ctrl-C → `gondola up` has ended (slowest)", seconds(stopped.quantile(1)), "")
	return nil
}
