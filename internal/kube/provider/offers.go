package provider

import (
	"sync"
	"time"

	"gondola"
)

// offers keeps the workers' standing offers and tells when they, or the Machines, have changed.
type offers struct {
	changed chan struct{} // holds one token

	mu       sync.Mutex
	byWorker map[gondola.WorkerName]gondola.Offer
	endless  bool // nobody publishes offers: only the market knows
}

func newOffers() *offers {
	return &offers{changed: make(chan struct{}, 1), byWorker: map[gondola.WorkerName]gondola.Offer{}}
}

func (o *offers) put(offer gondola.Offer) {
	o.mu.Lock()
	o.byWorker[offer.Worker] = offer
	o.mu.Unlock()
	o.touch()
}

func (o *offers) lose(w gondola.WorkerName) {
	o.mu.Lock()
	delete(o.byWorker, w)
	o.mu.Unlock()
	o.touch()
}

func (o *offers) unlimited() {
	o.mu.Lock()
	o.endless = true
	o.mu.Unlock()
	o.touch()
}

func (o *offers) touch() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// endlessRegion is what a region is said to have where nobody publishes offers.
var endlessRegion = gondola.Resources{CPUMillis: 1_000_000, MemoryBytes: 4 << 40}

// of returns what the workers of a region have and what is free; workers is how many answer.
func (o *offers) of(r gondola.Region) (capacity, free gondola.Resources, workers int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.endless {
		return endlessRegion, endlessRegion, 1
	}
	for _, offer := range o.byWorker {
		if offer.Region == r {
			capacity, free = capacity.Add(offer.Capacity), free.Add(offer.Free)
			workers++
		}
	}
	return capacity, free, workers
}

// settle is how long capacity must be at rest before a Node says so: offers and Machines are told separately.
const settle = 500 * time.Millisecond
