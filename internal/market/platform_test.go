package market_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"gondola"
)

func TestStats_OfACallerWithoutTimeIsNoFaultOfTheServer(t *testing.T) {
	f := newFleet(t, 0, "gru")
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if _, err := f.Market.Stats(ctx, gondola.StatsRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stats = %v, want that the deadline has passed", err)
	}
}
