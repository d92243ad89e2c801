package market_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"gondola"
	"gondola/internal/gondolatest"
	"gondola/internal/market"
)

func TestShortlist(t *testing.T) {
	const gru, gig = gondola.Region("gru"), gondola.Region("gig")
	size := func(cpus int64) gondola.Resources {
		return gondola.Resources{CPUMillis: 1000 * cpus, MemoryBytes: cpus << 30}
	}
	fleet := func(n int, change func(i int, w *market.Worker, o *gondola.Offer)) (ws []market.Worker, heard market.Offers) {
		heard = market.Offers{}
		for i := range n {
			w := market.Worker{Name: gondola.WorkerName(fmt.Sprintf("w%02d", i)), Region: gru}
			o := &gondola.Offer{Capacity: size(16), Free: size(8), FreeMachines: 10}
			change(i, &w, o)
			ws = append(ws, w)
			if o.Capacity != (gondola.Resources{}) {
				heard[w.Name] = o
			}
		}
		return ws, heard
	}
	for name, c := range map[string]struct {
		workers int
		change  func(i int, w *market.Worker, o *gondola.Offer)
		first   func(i int) bool // those asked first are of these
		n       int              // so many
	}{
		"all of a few":                    {8, func(int, *market.Worker, *gondola.Offer) {}, nil, 0},
		"some of many that are alike":     {30, func(int, *market.Worker, *gondola.Offer) {}, func(int) bool { return true }, 8},
		"all where nobody has been heard": {30, func(_ int, _ *market.Worker, o *gondola.Offer) { *o = gondola.Offer{} }, nil, 0},
		"all where nobody has room":       {30, func(_ int, _ *market.Worker, o *gondola.Offer) { o.Free = size(1) }, nil, 0},
		"those that have room":            {30, func(i int, _ *market.Worker, o *gondola.Offer) { o.Free = size(int64(i / 10)) }, func(i int) bool { return i >= 20 }, 8},
		"the few that have room":          {30, func(i int, _ *market.Worker, o *gondola.Offer) { o.Cordoned = i != 7 && i != 9 }, func(i int) bool { return i == 7 || i == 9 }, 2},
		"those with the most room":        {30, func(i int, _ *market.Worker, o *gondola.Offer) { o.Free = size(int64(2 + i/10)) }, func(i int) bool { return i >= 20 }, 8},
		"those that have the image":       {30, func(i int, _ *market.Worker, o *gondola.Offer) { o.Images = images[i%2] }, func(i int) bool { return i%2 == 1 }, 8},
		"those of the preferred region":   {30, func(i int, w *market.Worker, o *gondola.Offer) { away(i < 20, w, gig); o.Free = size(int64(8 - i/10)) }, func(i int) bool { return i >= 20 }, 8},
		"all where that region has no room": {30, func(i int, w *market.Worker, o *gondola.Offer) {
			away(i < 20, w, gig)
			if i >= 20 {
				o.Free = size(1)
			}
		}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ws, heard := fleet(c.workers, c.change)
			first := market.Shortlist(ws, heard, gondola.Ask{Requests: size(2), Image: "nginx"}, map[gondola.Region]int{gru: 1, gig: 2})
			if len(first) != c.n {
				t.Fatalf("%d are asked first, want %d", len(first), c.n)
			}
			if others := market.Without(ws, first); len(others) != c.workers-c.n {
				t.Errorf("%d are asked then, want %d", len(others), c.workers-c.n)
			}
			for i, w := range ws {
				for _, f := range first {
					if f.Name == w.Name && !c.first(i) {
						t.Errorf("%s is asked first", w.Name)
					}
				}
			}
		})
	}
}

var images = [][]string{{"docker.io/library/redis:latest"}, {"docker.io/library/redis:latest", "docker.io/library/nginx:latest"}}

func away(yes bool, w *market.Worker, r gondola.Region) {
	if yes {
		w.Region = r
	}
}

func TestCreate_AsksThoseFirstThatOfferRoom(t *testing.T) {
	f := newFleetOf(t, gondolatest.Options{Regions: []gondola.Region{"gru"}, Workers: 20})
	for range 17 {
		f.place(t, sized(4, "gru"))
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		before := f.asks()
		m := f.place(t, sized(4, "gru"))
		asked := f.asks() - before
		if asked <= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d workers are asked though but three have room, and have said so", asked)
		}
		if err := f.Market.Destroy(t.Context(), m.Ref(), true); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fleet) asks() (n int64) {
	for _, w := range f.workers {
		n += w.asks.Load()
	}
	return n
}

// An offer reserves nothing and may be old: who refuses in spite of it leads to those that were not asked before.
func TestCreate_FindsTheOneWorkerThatTakesItAmongManyThatOfferedTo(t *testing.T) {
	for name, spoil := range map[string]func(*spoiled){
		"the others do not bid": func(w *spoiled) {
			w.ask = func(context.Context) error { return gondola.Errorf(gondola.ErrCapacity, "it has just been taken") }
		},
		"the others do not answer": func(w *spoiled) { w.ask = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } },
		"the others refuse after they have bid": func(w *spoiled) {
			w.create = func(context.Context, func() (gondola.Machine, error)) (gondola.Machine, error) {
				return gondola.Machine{}, gondola.Errorf(gondola.ErrCapacity, "it has just been taken")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleetOf(t, gondolatest.Options{Regions: []gondola.Region{"gru"}, Workers: 40, AskDeadline: time.Second})
			for n, w := range f.workers {
				if n != "gru-33" {
					spoil(w)
				}
			}
			for range 4 {
				if m := f.place(t, sized(1, "gru")); m.Gondola.Worker != "gru-33" {
					t.Errorf("it is said to be on %s", m.Gondola.Worker)
				}
			}
		})
	}
}
