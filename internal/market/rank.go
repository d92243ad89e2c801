package market

import (
	"cmp"
	"slices"

	"gondola"
)

// priceStep is how much cheaper a Bid must be, about, to outdo a cached image: a twentieth of a worker.
const priceStep = 0.05

// rank sorts Bids, best first: by the order of preference of their regions (equal where prefer does not name them), by price in steps, by
// whether the image is there, by exact price, by name. Pure.
func rank(bids []gondola.Bid, prefer map[gondola.Region]int) {
	slices.SortFunc(bids, func(a, b gondola.Bid) int {
		return cmp.Or(
			cmp.Compare(prefer[a.Region], prefer[b.Region]),
			cmp.Compare(int(a.Price/priceStep), int(b.Price/priceStep)),
			compareTrueFirst(a.ImageCached, b.ImageCached),
			cmp.Compare(a.Price, b.Price),
			cmp.Compare(a.Worker, b.Worker))
	})
}

func compareTrueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}
