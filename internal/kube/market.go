package kube

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"gondola"
)

// pendingLife is how long a Pod that the scheduler has placed counts against the offers when nothing is heard of its Machine: as long as the
// provider tries to create one.
const pendingLife = time.Minute

// market is the scheduler's picture of the platform: the standing offer of every worker, and the Pods placed on the strength of an offer
// that cannot know of them yet. It is fed by a watch in the background; asking it does no I/O.
//
// A Pod counts from the moment the scheduler reserves its place until the platform has told of its Machine (one whose metadata carries the
// Pod's UID) and the worker has made another offer after that, or until the scheduler gives the place up, the Pod is gone or a minute is over.
type market struct {
	platform gondola.Watcher // nil: none
	log      *slog.Logger
	changed  chan struct{} // holds one token after there may be more room than before

	mu      sync.Mutex
	heard   bool                                   // the platform has told its offers; until then, and where it has none, every region may be tried
	offers  map[gondola.WorkerName]gondola.Offer   //
	pending map[string]*placed                     // Pod UID → what it takes
	stale   map[gondola.WorkerName]map[string]bool // worker → Pods whose Machine it told of since its last offer
}

// placed is a Pod that the offers do not show yet.
type placed struct {
	region gondola.Region
	wants  gondola.Resources
	since  time.Time
}

func newMarket(platform gondola.Watcher, log *slog.Logger) *market {
	return &market{platform: platform, log: log, changed: make(chan struct{}, 1), offers: map[gondola.WorkerName]gondola.Offer{},
		pending: map[string]*placed{}, stale: map[gondola.WorkerName]map[string]bool{}}
}

// run follows the platform's offers until ctx ends; a stream that ends is begun again.
func (m *market) run(ctx context.Context) error {
	if m.platform == nil {
		return nil
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		changes, err := m.platform.Watch(ctx, gondola.WatchRequest{Offers: true})
		if errors.Is(err, gondola.ErrUnsupported) || errors.Is(err, gondola.ErrNotFound) {
			m.log.Info("the platform publishes no offers; every region may be tried")
			return nil
		}
		if err == nil {
			m.follow(changes)
		} else if ctx.Err() == nil {
			m.log.Warn("offers of the platform cannot be had; trying again", "error", err)
		}
		pause.Reset(500 * time.Millisecond)
	}
}

// follow takes in one stream to its end. Its beginning is the whole truth, so the offers of an earlier one are dropped; until the first
// worker has told all, nothing is known.
func (m *market) follow(changes <-chan gondola.Change) {
	m.mu.Lock()
	m.heard = false
	clear(m.offers)
	clear(m.stale)
	m.mu.Unlock()
	for c := range changes {
		m.take(c)
	}
}

// take applies one change.
func (m *market) take(c gondola.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case c.Synced:
		m.heard = true
	case c.Offer != nil:
		m.offers[c.Offer.Worker] = *c.Offer
		for uid := range m.stale[c.Worker] {
			delete(m.pending, uid)
		}
		delete(m.stale, c.Worker)
	case c.Lost:
		delete(m.offers, c.Worker)
		delete(m.stale, c.Worker)
	case c.Machine != nil && c.Machine.Config != nil:
		for _, v := range c.Machine.Config.Metadata {
			if m.pending[v] == nil {
				continue
			}
			if m.stale[c.Worker] == nil {
				m.stale[c.Worker] = map[string]bool{}
			}
			m.stale[c.Worker][v] = true
		}
		return
	default:
		return
	}
	m.touch()
}

func (m *market) touch() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// reserve counts a Pod against a region from now on.
func (m *market) reserve(uid string, region gondola.Region, wants gondola.Resources, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending[uid] = &placed{region, wants, now}
}

// room returns how many bytes the largest new Volume of a region can have, 0 on full disks; false where no worker of it tells.
func (m *market) room(region gondola.Region) (bytes int64, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.offers {
		if o.Region == region && !o.Cordoned && o.DiskFree != 0 {
			bytes, known = max(bytes, o.DiskFree), m.heard
		}
	}
	return bytes, known
}

// release stops counting a Pod.
func (m *market) release(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pending[uid] != nil {
		delete(m.pending, uid)
		m.touch()
	}
}

// region returns what there is to decide by for a region: its offers less what is pending there. known is false where nothing is known of
// any region.
func (m *market) region(r gondola.Region, except string, now time.Time) (offers []gondola.Offer, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.heard {
		return nil, false
	}
	for _, w := range slices.Sorted(maps.Keys(m.offers)) {
		if o := m.offers[w]; o.Region == r {
			offers = append(offers, o)
		}
	}
	var wants []gondola.Resources
	for uid, p := range m.pending {
		if now.Sub(p.since) > pendingLife {
			delete(m.pending, uid)
		} else if p.region == r && uid != except {
			wants = append(wants, p.wants)
		}
	}
	return lessPending(offers, wants), true
}

// regions returns the offers of every region, as region does.
func (m *market) regions(now time.Time) map[gondola.Region][]gondola.Offer {
	m.mu.Lock()
	names := map[gondola.Region]bool{}
	for _, o := range m.offers {
		names[o.Region] = true
	}
	m.mu.Unlock()
	out := map[gondola.Region][]gondola.Offer{}
	for r := range names {
		out[r], _ = m.region(r, "", now)
	}
	return out
}

// lessPending takes each of wants out of the offer with the most room for it, largest first, as the market would place them.
func lessPending(offers []gondola.Offer, wants []gondola.Resources) []gondola.Offer {
	slices.SortFunc(wants, func(a, b gondola.Resources) int {
		return cmp.Or(cmp.Compare(b.MemoryBytes, a.MemoryBytes), cmp.Compare(b.CPUMillis, a.CPUMillis))
	})
	for _, w := range wants {
		if i := roomiest(offers, w); i >= 0 {
			offers[i].Free = offers[i].Free.Sub(w)
			offers[i].FreeMachines--
		}
	}
	return offers
}

// roomiest returns the index of the offer that takes wants at the lowest price; the one nearest to it where none does; -1 without offers.
func roomiest(offers []gondola.Offer, wants gondola.Resources) int {
	best := -1
	for i := range offers {
		if best < 0 || offers[i].Price(wants) < offers[best].Price(wants) {
			best = i
		}
	}
	return best
}

// verdict says whether a worker of a region can take wants, and if none can, why not: in the words in which the market refuses.
func verdict(region gondola.Region, offers []gondola.Offer, wants gondola.Resources) (refusal string, ok bool) {
	i := roomiest(offers, wants)
	if i < 0 {
		return string(region) + ": no worker answers", false
	}
	if slices.ContainsFunc(offers, func(o gondola.Offer) bool { return o.Takes(wants) }) {
		return "", true
	}
	o := offers[i]
	if !o.Cordoned && o.FreeMachines < 1 {
		return string(region) + ": insufficient IPs: it runs as many machines as it can", false
	}
	if o.Cordoned {
		return string(region) + ": it is cordoned", false
	}
	return string(region) + ": " + wants.String() + " wanted, " + o.Free.String() + " free of " + o.Capacity.String(), false
}

// attraction rates a region from 0 to 100 for a Pod: mostly by how much is free there after taking it, a little by whether the images are.
func attraction(offers []gondola.Offer, wants gondola.Resources, images []string) int64 {
	best := 0.0
	for i := range offers {
		if !offers[i].Takes(wants) {
			continue
		}
		score := 80 * (1 - offers[i].Price(wants))
		if offers[i].HasImages(images...) {
			score += 20
		}
		best = max(best, score)
	}
	return int64(best)
}
