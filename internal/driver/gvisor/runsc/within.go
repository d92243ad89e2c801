package runsc

import (
	"context"
	"fmt"
	"time"

	"gondola"
)

// within calls f, which asks a sandbox, and gives up on it when ctx has ended and the time to clean up is over as well: a sandbox that hangs
// answers nothing, and f returns when it dies.
func within[T any](ctx context.Context, m gondola.MachineID, cleanUp time.Duration, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		v, err := f()
		answers <- answer{v, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
	}
	timer := time.NewTimer(cleanUp)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-timer.C:
		var none T
		return none, fmt.Errorf("the sandbox of machine %s does not answer: %w", m, ctx.Err())
	}
}
