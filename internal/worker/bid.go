package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"gondola"
)

// offered is what a bid is computed from.
type offered struct {
	worker   gondola.WorkerName
	region   gondola.Region
	capacity gondola.Resources
	free     gondola.Resources
	numbers  int // Machines for which there are addresses
	cordoned bool
	full     string   // which disk is full; empty if none
	drivers  []string // sorted
	cached   bool     // the image is there
	lacks    string   // why Volumes of the Machine are not here; empty if they are
	diskFree int64    // bytes that new Volumes may take
	disk     int64    // bytes that all of them may take
}

// computeBid answers an Ask: with a Bid, or with a Refusal that says why not in words. Pure; it reserves nothing.
func computeBid(o offered, ask gondola.Ask) (*gondola.Bid, *gondola.Refusal) {
	want := ask.Requests
	if want == (gondola.Resources{}) && ask.DiskBytes == 0 { // a Volume alone takes neither
		want = gondola.Overhead
	}
	refuse := func(format string, args ...any) (*gondola.Bid, *gondola.Refusal) {
		return nil, &gondola.Refusal{Worker: o.worker, Region: o.region, Reason: fmt.Sprintf(format, args...), Free: o.free, Capacity: o.capacity}
	}
	switch {
	case want.CPUMillis < 0 || want.MemoryBytes < 0:
		return refuse("%s wanted: amounts must not be negative", want)
	case len(ask.Regions) > 0 && !slices.Contains(ask.Regions, o.region):
		return refuse("it is in region %s", o.region)
	case ask.Driver != "" && !slices.Contains(o.drivers, ask.Driver):
		return refuse("driver %s wanted, it has %s", ask.Driver, strings.Join(o.drivers, ", "))
	case o.cordoned:
		return refuse("it is cordoned")
	case o.full != "":
		return refuse("%s", o.full)
	case o.numbers < 1:
		return refuse("insufficient IPs: it runs %d machines already", maxNumber)
	case o.lacks != "":
		return refuse("%s", o.lacks)
	case ask.DiskBytes > max(o.diskFree, 0):
		return refuse("a disk of %d GB wanted, %d GB free of %d GB", ask.DiskBytes/gib, o.diskFree/gib, o.disk/gib)
	case !want.Fits(o.free):
		return refuse("%s wanted, %s free of %s", want, o.free, o.capacity)
	}
	after := o.capacity.Sub(o.free).Add(want)
	price := max(share(after.CPUMillis, o.capacity.CPUMillis), share(after.MemoryBytes, o.capacity.MemoryBytes))
	if ask.DiskBytes > 0 {
		price = max(price, share(o.disk-o.diskFree+ask.DiskBytes, o.disk))
	}
	return &gondola.Bid{Worker: o.worker, Region: o.region, Free: o.free, Capacity: o.capacity, ImageCached: o.cached, DiskFree: o.diskFree, Price: price,
		Fits: min(o.numbers, times(o.free.CPUMillis, want.CPUMillis), times(o.free.MemoryBytes, want.MemoryBytes))}, nil
}

func share(part, of int64) float64 {
	if of <= 0 {
		return 0
	}
	return min(1, float64(part)/float64(of))
}

// times says how often want goes into free.
func times(free, want int64) int {
	if want <= 0 {
		return maxNumber
	}
	return int(min(free/want, maxNumber))
}

// Ask answers with one Bid or one Refusal. It reserves nothing.
func (w *Worker) Ask(ctx context.Context, ask gondola.Ask) (gondola.Auction, error) {
	o := w.offered()
	o.cached = ask.Image != "" && w.cfg.Host.CachedImage(ask.Image)
	o.lacks = w.disks.lacks(ask.Volumes)
	if ask.DiskBytes > 0 {
		w.addDisk(&o)
	}
	bid, refusal := computeBid(o, ask)
	if refusal != nil {
		return gondola.Auction{Bids: []gondola.Bid{}, Refusals: []gondola.Refusal{*refusal}}, nil
	}
	return gondola.Auction{Bids: []gondola.Bid{*bid}, Refusals: []gondola.Refusal{}}, nil
}

func (w *Worker) offered() offered {
	free, numbers := w.ledger.free()
	return offered{worker: w.cfg.Name, region: w.cfg.Region, capacity: w.cfg.Capacity, free: free, numbers: numbers, cordoned: w.cordoned.Load(),
		full: w.diskFull(), drivers: w.cfg.Allowed}
}

// addDisk looks how much room there is for Volumes.
func (w *Worker) addDisk(o *offered) {
	free, total, err := w.cfg.Host.DiskRoom()
	if err != nil {
		o.full = "its disk cannot be read: " + err.Error()
		return
	}
	o.diskFree, o.disk = free+w.disks.recoverable(), total
}

// minDisk is the free space below which no Machine is taken: its record, its journal and those of its neighbours need some.
const minDisk = 32 << 20

// diskFull says that there is no room on the disk for another Machine; empty if there is.
func (w *Worker) diskFull() string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(w.cfg.Dir, &fs); err != nil {
		return "" // whoever writes to it will say what is wrong
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free >= minDisk {
		return ""
	}
	return fmt.Sprintf("its disk is full: %d MB free on that of %s, %d MB needed; make room there", free>>20, w.cfg.Dir, minDisk>>20)
}

// offer is the standing offer of the moment.
func (w *Worker) offer() *gondola.Offer {
	free, numbers := w.ledger.free()
	fit := gondola.Resources{CPUMillis: max(0, free.CPUMillis), MemoryBytes: max(0, free.MemoryBytes)}
	o := &gondola.Offer{Worker: w.cfg.Name, Region: w.cfg.Region, Capacity: w.cfg.Capacity, Free: free, LargestFit: fit, FreeMachines: numbers,
		Cordoned: w.cordoned.Load(), DiskFree: w.diskFree.Load(), Host: w.hostInfo()}
	if images := w.images.Load(); images != nil {
		o.Images = *images
	}
	return o
}

// offerChanged tells those who watch offers.
func (w *Worker) offerChanged() { w.hub.offer(w.offer) }

// refused turns a Refusal into the error of Create.
func refused(r gondola.Refusal) error {
	return &gondola.Error{Kind: gondola.ErrCapacity, Message: r.Reason, Refusals: []gondola.Refusal{r}}
}
