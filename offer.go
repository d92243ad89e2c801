package gondola

import (
	"slices"
	"strings"
)

// Offer is a Worker's standing offer, published on its watch stream: what it could take right now.
type Offer struct {
	Worker       WorkerName `json:"worker"`
	Region       Region     `json:"region"`
	Capacity     Resources  `json:"capacity"`
	Free         Resources  `json:"free"`
	LargestFit   Resources  `json:"largest_fit"` // largest single Machine
	FreeMachines int        `json:"free_machines"`
	Cordoned     bool       `json:"cordoned,omitempty"`
	Images       []string   `json:"images,omitempty"`    // references in its store
	Host         *HostInfo  `json:"host,omitempty"`      // nil from a worker that does not tell
	DiskFree     int64      `json:"disk_free,omitempty"` // bytes that new Volumes may take
}

// Takes says whether the worker would bid for a Machine of that size, as far as its offer tells.
func (o *Offer) Takes(want Resources) bool {
	return !o.Cordoned && o.FreeMachines > 0 && want.Fits(o.Free)
}

// Price is the share of the worker in use after taking want, of whichever resource is scarcer: above 1 it does not fit. It is beyond all prices for
// one who takes none.
func (o *Offer) Price(want Resources) float64 {
	if o.Cordoned || o.FreeMachines < 1 {
		return 1e9
	}
	used := o.Capacity.Sub(o.Free).Add(want)
	share := func(used, capacity int64) float64 { return float64(used) / float64(max(capacity, 1)) }
	return max(share(used.CPUMillis, o.Capacity.CPUMillis), share(used.MemoryBytes, o.Capacity.MemoryBytes))
}

// HasImages says whether all images, in whatever form their references are, are in the worker's store.
func (o *Offer) HasImages(images ...string) bool {
	for _, want := range images {
		want = CanonicalImage(want)
		if !slices.ContainsFunc(o.Images, func(have string) bool { return CanonicalImage(have) == want }) {
			return false
		}
	}
	return true
}

// CanonicalImage fills in what a short image reference leaves out: "nginx" is "docker.io/library/nginx:latest".
func CanonicalImage(ref string) string {
	host, rest, ok := strings.Cut(ref, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", ref
	}
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	if !strings.Contains(rest, "@") && !strings.Contains(rest[strings.LastIndexByte(rest, '/')+1:], ":") {
		rest += ":latest"
	}
	return host + "/" + rest
}
