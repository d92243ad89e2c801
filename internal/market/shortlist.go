package market

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"gondola"
)

// shortlisted is how many workers are asked first where their standing offers tell them from the others.
const shortlisted = 8

// offers are what workers said last of what they could take, with the images' references in full. None is changed, only replaced.
type offers map[gondola.WorkerName]*gondola.Offer

// heard keeps what a worker offers; if nil, it offers nothing that one could go by.
func (m *Market) heard(w gondola.WorkerName, o *gondola.Offer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o == nil {
		delete(m.offers, w)
		return
	}
	kept := *o
	kept.Images = make([]string, len(o.Images))
	for i, ref := range o.Images {
		kept.Images[i] = gondola.CanonicalImage(ref)
	}
	m.offers[w] = &kept
}

// shortlist is the pure one by what was heard up to now.
func (m *Market) shortlist(ws []Worker, ask gondola.Ask, prefer map[gondola.Region]int) (first, others []Worker) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return shortlist(ws, m.offers, ask, prefer)
}

// shortlist parts workers into those to ask first and the others. First are the few of the region that is preferred most whose offers promise the best
// Bids, those of about one price in random order, so that purchases at the same time do not all meet at one worker. An offer only says whom to
// ask: it may be of a moment ago, so what it denies is no refusal. Where no offer of that region promises anything, and where the workers are few, all
// are to be asked at once. Pure, but for chance.
func shortlist(ws []Worker, heard offers, ask gondola.Ask, prefer map[gondola.Region]int) (first, others []Worker) {
	if len(ws) <= shortlisted || len(heard) == 0 {
		return nil, ws
	}
	best := prefer[slices.MinFunc(ws, func(a, b Worker) int { return cmp.Compare(prefer[a.Region], prefer[b.Region]) }).Region]
	type candidate struct {
		worker int
		price  int // in steps
		cached bool
		chance uint32
	}
	image := ""
	if ask.Image != "" {
		image = gondola.CanonicalImage(ask.Image)
	}
	var all []candidate
	for i, w := range ws {
		o, ok := heard[w.Name]
		if !ok || prefer[w.Region] != best || !o.Takes(ask.Requests) {
			continue
		}
		all = append(all, candidate{i, int(o.Price(ask.Requests) / priceStep), slices.Contains(o.Images, image), rand.Uint32()})
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.price, b.price), compareTrueFirst(a.cached, b.cached), cmp.Compare(a.chance, b.chance))
	})
	all = all[:min(len(all), shortlisted)]
	if len(all) == 0 {
		return nil, ws
	}
	chosen := make([]bool, len(ws))
	for _, c := range all {
		chosen[c.worker] = true
		first = append(first, ws[c.worker])
	}
	for i, w := range ws {
		if !chosen[i] {
			others = append(others, w)
		}
	}
	return first, others
}
