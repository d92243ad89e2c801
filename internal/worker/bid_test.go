package worker

import (
	"testing"

	"gondola"
)

// The pure functions of this package are tested from inside; all else goes through Worker.

func TestComputeBid(t *testing.T) {
	mb := func(cpu, mem int64) gondola.Resources {
		return gondola.Resources{CPUMillis: cpu, MemoryBytes: mem << 20}
	}
	base := offered{worker: "w", region: "fra", capacity: mb(2000, 3800), free: mb(1000, 900), numbers: 10, drivers: []string{"gvisor", "runc"}}
	with := func(f func(*offered)) offered { o := base; f(&o); return o }
	for _, row := range []struct {
		name    string
		o       offered
		ask     gondola.Ask
		refusal string
		price   float64
		fits    int
	}{
		{"fits once", base, gondola.Ask{Requests: mb(1000, 500)}, "", 1, 1},
		{"fits often", base, gondola.Ask{Requests: mb(100, 100)}, "", 3000.0 / 3800, 9},
		{"no more than there are addresses", with(func(o *offered) { o.numbers = 3 }), gondola.Ask{Requests: mb(100, 100)}, "", 3000.0 / 3800, 3},
		{"memory and CPU are short", base, gondola.Ask{Requests: mb(2000, 4096)}, "2 CPUs and 4096 MB wanted, 1 CPU and 900 MB free of 2 CPUs and 3800 MB", 0, 0},
		{"one millicore too much", base, gondola.Ask{Requests: mb(1001, 1)}, "1001m CPU and 1 MB wanted, 1 CPU and 900 MB free of 2 CPUs and 3800 MB", 0, 0},
		{"nothing counts as overhead", with(func(o *offered) { o.free = mb(0, 24) }), gondola.Ask{}, "0 CPUs and 25 MB wanted, 0 CPUs and 24 MB free of 2 CPUs and 3800 MB", 0, 0},
		{"cordoned", with(func(o *offered) { o.cordoned = true }), gondola.Ask{Requests: mb(1, 1)}, "it is cordoned", 0, 0},
		{"full disk", with(func(o *offered) { o.full = "its disk is full" }), gondola.Ask{Requests: mb(1, 1)}, "its disk is full", 0, 0},
		{"another region", base, gondola.Ask{Regions: []gondola.Region{"gru"}, Requests: mb(1, 1)}, "it is in region fra", 0, 0},
		{"unknown driver", base, gondola.Ask{Driver: "microvm", Requests: mb(1, 1)}, "driver microvm wanted, it has gvisor, runc", 0, 0},
		{"no addresses", with(func(o *offered) { o.numbers = 0 }), gondola.Ask{Requests: mb(1, 1)}, "insufficient IPs: it runs 4093 machines already", 0, 0},
		{"negative", base, gondola.Ask{Requests: mb(-1000, 1)}, "-1 CPUs and 1 MB wanted: amounts must not be negative", 0, 0},
	} {
		bid, refusal := computeBid(row.o, row.ask)
		switch {
		case (bid == nil) == (refusal == nil):
			t.Errorf("%s: bid %+v and refusal %+v", row.name, bid, refusal)
		case refusal != nil && refusal.Reason != row.refusal:
			t.Errorf("%s: refused with %q, want %q", row.name, refusal.Reason, row.refusal)
		case bid != nil && (row.refusal != "" || bid.Price != row.price || bid.Fits != row.fits):
			t.Errorf("%s: bid %+v, want price %v and %d fits (refusal %q)", row.name, bid, row.price, row.fits, row.refusal)
		}
	}
}
