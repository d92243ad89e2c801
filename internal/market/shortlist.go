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
func (m *Market) shortlist(ws []Worker, ask gondola.Ask, prefer map[gondola.Region]int) []Worker {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return shortlist(ws, m.offers, ask, prefer)
}

// candidate is a worker with what its offer promises.
type candidate struct {
	worker int // of those that may be asked
	price  int // in steps
	cached bool
	chance uint32
}

// compare sorts candidates, the most promising first.
func (c candidate) compare(other candidate) int {
	return cmp.Or(cmp.Compare(c.price, other.price), compareTrueFirst(c.cached, other.cached), cmp.Compare(c.chance, other.chance))
}

// shortlist returns the workers to ask before the others: the few of the region that is preferred most whose offers promise the best Bids, those of
// about one price in random order, so that purchases at the same time do not all meet at one worker. An offer only says whom to ask: it may be of a
// moment ago, so what it denies is no refusal. Where no offer of that region promises anything, and where the workers are few, there are none, and all
// are to be asked at once. Pure, but for chance.
func shortlist(ws []Worker, heard offers, ask gondola.Ask, prefer map[gondola.Region]int) []Worker {
	if len(ws) <= shortlisted || len(heard) == 0 {
		return nil
	}
	best := prefer[slices.MinFunc(ws, func(a, b Worker) int { return cmp.Compare(prefer[a.Region], prefer[b.Region]) }).Region]
	image := ""
	if ask.Image != "" {
		image = gondola.CanonicalImage(ask.Image)
	}
	var found []candidate // sorted, at most shortlisted
	for i := range ws {
		o, ok := heard[ws[i].Name]
		if !ok || prefer[ws[i].Region] != best || !o.Takes(ask.Requests) {
			continue
		}
		c := candidate{i, int(o.Price(ask.Requests) / priceStep), slices.Contains(o.Images, image), rand.Uint32()}
		if at, _ := slices.BinarySearchFunc(found, c, candidate.compare); at < shortlisted {
			found = slices.Insert(found[:min(len(found), shortlisted-1)], at, c)
		}
	}
	var first []Worker
	for _, c := range found {
		first = append(first, ws[c.worker])
	}
	return first
}

// without returns the workers that are not among some of them.
func without(ws, some []Worker) []Worker {
	return slices.DeleteFunc(slices.Clone(ws), func(w Worker) bool {
		return slices.ContainsFunc(some, func(o Worker) bool { return o.Name == w.Name })
	})
}
