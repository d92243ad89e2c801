package kube

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// A part may fail by a deadline of its own: that is no end that somebody asked for.
func TestFailure_IsAPartsAndNotTheCallers(t *testing.T) {
	late := fmt.Errorf("API server: %w", context.DeadlineExceeded)
	caller, stop := context.WithCancel(t.Context())
	ctx, fail := context.WithCancelCause(caller)
	fail(late)
	if err := failure(caller, ctx); !errors.Is(err, late) {
		t.Errorf("failure of a part that was late = %v, want its error", err)
	}
	ctx, fail = context.WithCancelCause(caller)
	defer fail(nil)
	stop()
	if err := failure(caller, ctx); err != nil {
		t.Errorf("failure where the caller has stopped = %v, want none", err)
	}
}
