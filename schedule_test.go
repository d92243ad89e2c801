package gondola_test

import (
	"testing"
	"time"

	"gondola"
)

func TestNextRun_KeepsItsPhaseAndMakesNothingUp(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.DateTime, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct{ schedule, due, now, want string }{
		{"hourly", "2026-01-31 10:20:00", "2026-01-31 10:20:00", "2026-01-31 11:20:00"},
		{"hourly", "2026-01-31 10:20:00", "2026-01-31 15:19:59", "2026-01-31 15:20:00"},
		{"hourly", "2026-01-31 10:20:00", "2026-01-31 15:20:00", "2026-01-31 16:20:00"},
		{"daily", "2026-01-31 10:20:00", "2026-02-03 09:00:00", "2026-02-03 10:20:00"},
		{"weekly", "2026-01-31 10:20:00", "2026-02-01 09:00:00", "2026-02-07 10:20:00"},
		{"monthly", "2026-03-05 10:20:00", "2026-03-05 10:20:00", "2026-04-05 10:20:00"},
		{"monthly", "2026-03-05 10:20:00", "2026-06-20 00:00:00", "2026-07-05 10:20:00"},
	} {
		if got := gondola.NextRun(c.schedule, at(c.due), at(c.now)); !got.Equal(at(c.want)) {
			t.Errorf("NextRun(%s, %s, %s) = %s, want %s", c.schedule, c.due, c.now, got, c.want)
		}
	}
	if got := gondola.NextRun("", at("2026-01-31 10:20:00"), at("2026-01-31 10:20:00")); !got.IsZero() {
		t.Errorf("without a schedule: %s", got)
	}
}
