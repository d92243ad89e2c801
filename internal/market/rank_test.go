package market_test

import (
	"errors"
	"maps"
	"testing"

	"gondola"
	"gondola/internal/market"
)

func TestRank(t *testing.T) {
	gru, gig := gondola.Region("gru"), gondola.Region("gig")
	for name, c := range map[string]struct {
		bids   []gondola.Bid
		prefer map[gondola.Region]int
		want   []gondola.WorkerName
	}{
		"the cheaper one first": {
			bids: []gondola.Bid{{Worker: "a", Region: gru, Price: 0.9}, {Worker: "b", Region: gru, Price: 0.2}},
			want: []gondola.WorkerName{"b", "a"}},
		"the preferred region before a cheaper one": {
			bids:   []gondola.Bid{{Worker: "a", Region: gig, Price: 0.1}, {Worker: "b", Region: gru, Price: 0.9}},
			prefer: map[gondola.Region]int{gru: 1, gig: 2},
			want:   []gondola.WorkerName{"b", "a"}},
		"regions of one alias by price": {
			bids:   []gondola.Bid{{Worker: "a", Region: gig, Price: 0.5}, {Worker: "b", Region: gru, Price: 0.1}},
			prefer: map[gondola.Region]int{gru: 1, gig: 1},
			want:   []gondola.WorkerName{"b", "a"}},
		"a cached image before a slightly better price": {
			bids: []gondola.Bid{{Worker: "a", Region: gru, Price: 0.11}, {Worker: "b", Region: gru, Price: 0.13, ImageCached: true}},
			want: []gondola.WorkerName{"b", "a"}},
		"a much better price before a cached image": {
			bids: []gondola.Bid{{Worker: "a", Region: gru, Price: 0.1}, {Worker: "b", Region: gru, Price: 0.6, ImageCached: true}},
			want: []gondola.WorkerName{"a", "b"}},
		"equals by name, whoever answered first": {
			bids: []gondola.Bid{{Worker: "c", Price: 0.3}, {Worker: "a", Price: 0.3}, {Worker: "b", Price: 0.3}},
			want: []gondola.WorkerName{"a", "b", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			market.Rank(c.bids, c.prefer)
			for i, b := range c.bids {
				if b.Worker != c.want[i] {
					t.Fatalf("ranked %v, want %v", c.bids, c.want)
				}
			}
		})
	}
}

func TestParseRegions(t *testing.T) {
	there := []gondola.Region{"gru", "fra", "ams", "iad", "garage"}
	for expr, want := range map[string]map[gondola.Region]int{
		"":             {"gru": 1, "fra": 1, "ams": 1, "iad": 1, "garage": 1},
		"any":          {"gru": 1, "fra": 1, "ams": 1, "iad": 1, "garage": 1},
		"garage":       {"garage": 1},
		"GRU":          {"gru": 1},
		"fra, gru":     {"fra": 1, "gru": 2},
		"eu":           {"fra": 1, "ams": 1},
		"us":           {"iad": 1},
		"fra,eu,any":   {"fra": 1, "ams": 2, "gru": 3, "iad": 3, "garage": 3},
		"sa":           {"gru": 1},
		"fra,,fra,gru": {"fra": 1, "gru": 3},
	} {
		if got, err := market.ParseRegions(expr, there); err != nil || !maps.Equal(got, want) {
			t.Errorf("parseRegions(%q) = %v, %v, want %v", expr, got, err, want)
		}
	}
	for expr, want := range map[string]string{
		"nrt":     `region "nrt" has no workers; there is gru, fra, ams, iad and garage`,
		"gru,nrt": `region "nrt" has no workers; there is gru, fra, ams, iad and garage`,
		"apac":    `region "apac" has no workers; there is gru, fra, ams, iad and garage`,
	} {
		if _, err := market.ParseRegions(expr, there); !errors.Is(err, gondola.ErrNotFound) || err.Error() != want {
			t.Errorf("parseRegions(%q) error = %v, want %q", expr, err, want)
		}
	}
}

func TestRefusal_SaysWhatWouldHaveWorked(t *testing.T) {
	want := gondola.Resources{CPUMillis: 2000, MemoryBytes: 4096 << 20}
	small := gondola.Resources{CPUMillis: 500, MemoryBytes: 100 << 20}
	full := gondola.Refusal{Worker: "gru", Region: "gru", Reason: "2 CPUs and 4096 MB wanted, …", Free: small, Capacity: want}
	for text, c := range map[string]struct {
		wanted   map[gondola.Region]int
		refusals []gondola.Refusal
		has      []gondola.Region
	}{
		"no worker in gru has 2 CPUs and 4096 MB free; gig has":                                   {map[gondola.Region]int{"gru": 1}, []gondola.Refusal{full}, []gondola.Region{"gig"}},
		"no worker in gru or gig has 2 CPUs and 4096 MB free":                                     {map[gondola.Region]int{"gru": 1, "gig": 2}, []gondola.Refusal{full}, nil},
		"no worker in gru has 2 CPUs and 4096 MB free; ams and fra have":                          {map[gondola.Region]int{"gru": 1}, []gondola.Refusal{full}, []gondola.Region{"ams", "fra"}},
		"no worker in gru has 2 CPUs and 4096 MB free (w2: did not answer within 50 ms); gig has": {map[gondola.Region]int{"gru": 1}, []gondola.Refusal{full, {Worker: "w2", Reason: "did not answer within 50 ms"}}, []gondola.Region{"gig"}},
		"no worker in gru has 2 CPUs and 4096 MB free (gru: it is cordoned)": {map[gondola.Region]int{"gru": 1},
			[]gondola.Refusal{{Worker: "gru", Reason: "it is cordoned", Free: want, Capacity: want}}, nil},
	} {
		err := market.Refusal(c.wanted, want, c.refusals, c.has)
		if err.Error() != text || !errors.Is(err, gondola.ErrCapacity) || len(gondola.Refusals(err)) != len(c.refusals) {
			t.Errorf("refusal = %q, want %q", err, text)
		}
	}
}
