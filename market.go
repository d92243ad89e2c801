package gondola

// Ask is a request for room: so much, in that region. It reserves nothing.
type Ask struct {
	Regions  []Region  `json:"regions,omitempty"` // in the order of preference; if empty, every region
	Requests Resources `json:"requests"`          // per Machine
	Image    string    `json:"image,omitempty"`   // for the preference of workers that have it
	Count    int       `json:"count,omitempty"`   // Machines wanted; if zero, 1
	Driver   string    `json:"driver,omitempty"`  // isolation wanted; if empty, the worker's default
	// Volumes that the Machine mounts: only the worker that has them bids.
	Volumes   []VolumeID `json:"volumes,omitempty"`
	DiskBytes int64      `json:"disk_bytes,omitempty"` // wanted for a new Volume
}

// Bid is a Worker's answer to an Ask: what it would take the Machine for. It reserves nothing: Create re-checks.
type Bid struct {
	Worker      WorkerName `json:"worker"`
	Region      Region     `json:"region"`
	Price       float64    `json:"price"`                  // in [0, 1]: share of the worker in use after taking it; lower is preferred
	Free        Resources  `json:"free"`                   // before taking it
	Capacity    Resources  `json:"capacity"`               // of the whole worker
	Fits        int        `json:"fits"`                   // Machines of this size that fit now
	ImageCached bool       `json:"image_cached,omitempty"` // the image is there already
	DiskFree    int64      `json:"disk_free,omitempty"`    // bytes that new Volumes may take
}

// Refusal is a Worker's no, in words.
type Refusal struct {
	Worker   WorkerName `json:"worker"`
	Region   Region     `json:"region"`
	Reason   string     `json:"reason"` // "2 CPUs and 4096 MB wanted, 1 CPU and 900 MB free of 2 CPUs and 3800 MB"
	Free     Resources  `json:"free"`
	Capacity Resources  `json:"capacity"`
}

// Auction is the outcome of an Ask: the Bids, best first, and the Refusals.
type Auction struct {
	Bids     []Bid     `json:"bids"`
	Refusals []Refusal `json:"refusals"`
}

// PlacementsRequest is the read-only auction of the public API (POST /v1/platform/placements).
type PlacementsRequest struct {
	Org             string         `json:"org_slug"`
	Region          string         `json:"region,omitempty"` // expression; if empty, "any"
	Count           int            `json:"count,omitempty"`
	Compute         *Guest         `json:"compute,omitempty"`
	VolumeName      string         `json:"volume_name,omitempty"`
	VolumeSizeBytes int64          `json:"volume_size_bytes,omitempty"`
	Weights         map[string]int `json:"weights,omitempty"`
}

// Placement says how many Machines of the wanted size a region would take.
type Placement struct {
	Region      Region `json:"region"`
	Count       int    `json:"count"`
	Concurrency int    `json:"concurrency"`
}

// RegionInfo describes a region for the public API.
type RegionInfo struct {
	Code             Region  `json:"code"`
	Name             string  `json:"name"`
	Latitude         float64 `json:"latitude"`
	Longitude        float64 `json:"longitude"`
	GatewayAvailable bool    `json:"gateway_available"`
	RequiresPaidPlan bool    `json:"requires_paid_plan"`
	Deprecated       bool    `json:"deprecated"`
	GeoRegion        string  `json:"geo_region"`
}
