package market

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gondola"
)

// Ask implements gondola.Bidder: the Bids of all workers of the wanted regions, best first.
func (m *Market) Ask(ctx context.Context, ask gondola.Ask) (gondola.Auction, error) {
	ws, _ := m.current()
	words := make([]string, len(ask.Regions))
	for i, r := range ask.Regions {
		words[i] = string(r)
	}
	wanted, err := parseRegions(strings.Join(words, ","), regionsOf(ws))
	if err != nil {
		return gondola.Auction{}, err
	}
	ws = in(ws, wanted)
	for _, id := range ask.Volumes {
		if ws, err = m.with(ctx, "", string(id), ws); err != nil {
			return gondola.Auction{}, err
		}
	}
	return m.auction(ctx, ws, ask, wanted, m.deadline)
}

// in returns the workers of some regions.
func in(ws []Worker, regions map[gondola.Region]int) (out []Worker) {
	for _, w := range ws {
		if _, wanted := regions[w.Region]; wanted {
			out = append(out, w)
		}
	}
	return out
}

// auction asks workers at once and returns what they answered within the deadline, ranked. Those that did not are among the Refusals.
func (m *Market) auction(ctx context.Context, ws []Worker, ask gondola.Ask, prefer map[gondola.Region]int, within time.Duration) (gondola.Auction, error) {
	type answer struct {
		worker  int
		auction gondola.Auction
		err     error
	}
	ask.Regions = nil // the choice of region is made here; an alias is nothing to a worker
	asking, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	answers := make(chan answer, len(ws)) // so that a late one needs no reader
	for i, w := range ws {
		go func() {
			a, err := w.Ask(asking, ask)
			answers <- answer{i, a, err}
		}()
	}
	out := gondola.Auction{Bids: []gondola.Bid{}, Refusals: []gondola.Refusal{}}
	answered := make([]bool, len(ws))
collect:
	for range ws {
		select {
		case a := <-answers:
			if late := asking.Err() != nil && a.err != nil; late {
				break collect
			}
			answered[a.worker] = true
			out.Bids = append(out.Bids, a.auction.Bids...)
			out.Refusals = append(out.Refusals, a.auction.Refusals...)
			if a.err != nil {
				out.Refusals = append(out.Refusals, gondola.Refusal{Worker: ws[a.worker].Name, Region: ws[a.worker].Region, Reason: a.err.Error()})
			}
		case <-asking.Done():
			break collect
		}
	}
	if ctx.Err() != nil {
		return out, gondola.Errorf(gondola.ErrDeadline, "asking for bids: %w", ctx.Err())
	}
	for i, w := range ws {
		if !answered[i] {
			out.Refusals = append(out.Refusals, gondola.Refusal{Worker: w.Name, Region: w.Region,
				Reason: fmt.Sprintf("did not answer within %d ms", within.Milliseconds())})
		}
	}
	rank(out.Bids, prefer)
	slices.SortFunc(out.Refusals, func(a, b gondola.Refusal) int { return strings.Compare(string(a.Worker), string(b.Worker)) })
	return out, nil
}

// elsewhere asks the regions that were not wanted, in what is left of the deadline, so that a refusal can say what would have worked.
func (m *Market) elsewhere(ctx context.Context, ws []Worker, ask gondola.Ask, wanted map[gondola.Region]int, within time.Duration) []gondola.Region {
	others := slices.DeleteFunc(slices.Clone(ws), func(w Worker) bool { _, asked := wanted[w.Region]; return asked })
	if len(others) == 0 || within <= 0 {
		return nil
	}
	a, err := m.auction(ctx, others, ask, nil, within)
	if err != nil {
		return nil
	}
	var regions []gondola.Region
	for _, b := range a.Bids {
		if !slices.Contains(regions, b.Region) {
			regions = append(regions, b.Region)
		}
	}
	slices.Sort(regions)
	return regions
}

// Placements implements gondola.Market: how many Machines of that size would go where, without placing any. With a Count, regions are filled
// in the order of preference; without, each says how many it takes.
func (m *Market) Placements(ctx context.Context, req gondola.PlacementsRequest) ([]gondola.Placement, error) {
	ws, _ := m.current()
	wanted, err := parseRegions(req.Region, regionsOf(ws))
	if err != nil {
		return nil, err
	}
	if req.Count < 0 {
		return nil, gondola.Errorf(gondola.ErrInvalid, "count must not be negative")
	}
	guest, _ := gondola.GuestPreset("performance-1x")
	if req.Compute != nil {
		guest = *req.Compute
	}
	want, _ := guest.Resources()
	a, err := m.auction(ctx, in(ws, wanted), gondola.Ask{Requests: want, Count: req.Count}, wanted, m.deadline)
	if err != nil {
		return nil, err
	}
	fits, workers := map[gondola.Region]int{}, map[gondola.Region]int{}
	for _, b := range a.Bids {
		fits[b.Region] += b.Fits
		workers[b.Region]++
	}
	left, out := req.Count, []gondola.Placement{}
	for _, r := range inOrder(wanted) {
		n := fits[r]
		if req.Count > 0 {
			n = min(n, left)
			left -= n
		}
		if n > 0 {
			out = append(out, gondola.Placement{Region: r, Count: n, Concurrency: min(n, workers[r])})
		}
	}
	return out, nil
}

// Regions implements gondola.Market: those that have workers, that of the first worker first.
func (m *Market) Regions(ctx context.Context) ([]gondola.RegionInfo, error) {
	ws, _ := m.current()
	out := []gondola.RegionInfo{}
	for _, r := range regionsOf(ws) {
		out = append(out, info(r))
	}
	return out, nil
}

// refusedForSure says whether the worker has decided that it will not have the Machine and that another may. What was not answered may exist.
func refusedForSure(err error) bool { return errors.Is(err, gondola.ErrCapacity) }

// mayExist says whether a Create with this error may have happened all the same.
func mayExist(err error) bool {
	for _, definite := range []error{gondola.ErrInvalid, gondola.ErrNotFound, gondola.ErrNameTaken, gondola.ErrConflict, gondola.ErrPrecondition,
		gondola.ErrCapacity, gondola.ErrUnauthorized, gondola.ErrForbidden, gondola.ErrUnsupported, gondola.ErrImage} {
		if errors.Is(err, definite) {
			return false
		}
	}
	return true
}
