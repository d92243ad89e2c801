package kube

import (
	"testing"
	"time"

	"gondola"
)

func offer(worker string, region gondola.Region, freeCPU, freeMB int64) gondola.Offer {
	return gondola.Offer{Worker: gondola.WorkerName(worker), Region: region, Capacity: gondola.Resources{CPUMillis: 4000, MemoryBytes: 4000 << 20},
		Free: gondola.Resources{CPUMillis: freeCPU, MemoryBytes: freeMB << 20}, FreeMachines: 10}
}

func resources(cpu, mb int64) gondola.Resources {
	return gondola.Resources{CPUMillis: cpu, MemoryBytes: mb << 20}
}

func TestVerdict_SpeaksTheMarketsWords(t *testing.T) {
	cordoned, full := offer("a", "local", 4000, 4000), offer("a", "local", 4000, 4000)
	cordoned.Cordoned, full.FreeMachines = true, 0
	for name, row := range map[string]struct {
		offers []gondola.Offer
		wants  gondola.Resources
		want   string
	}{
		"it fits":                         {[]gondola.Offer{offer("a", "local", 2000, 3000)}, resources(2000, 3000), ""},
		"too little":                      {[]gondola.Offer{offer("a", "local", 2000, 3000)}, resources(64000, 1024), "local: 64 CPUs and 1024 MB wanted, 2 CPUs and 3000 MB free of 4 CPUs and 4000 MB"},
		"one of two has room":             {[]gondola.Offer{offer("a", "local", 100, 100), offer("b", "local", 3000, 3000)}, resources(2000, 2000), ""},
		"two halves make no whole":        {[]gondola.Offer{offer("a", "local", 1500, 3000), offer("b", "local", 1000, 3000)}, resources(2000, 1024), "local: 2 CPUs and 1024 MB wanted, 1500m CPU and 3000 MB free of 4 CPUs and 4000 MB"},
		"nobody answers":                  {nil, resources(1, 1), "local: no worker answers"},
		"cordoned":                        {[]gondola.Offer{cordoned}, resources(1, 1), "local: it is cordoned"},
		"no addresses for more":           {[]gondola.Offer{full}, resources(1, 1), "local: insufficient IPs: it runs as many machines as it can"},
		"cordoned is not asked for words": {[]gondola.Offer{cordoned, offer("b", "local", 500, 500)}, resources(1000, 10), "local: 1 CPU and 10 MB wanted, 500m CPU and 500 MB free of 4 CPUs and 4000 MB"},
	} {
		got, ok := verdict("local", row.offers, row.wants)
		if got != row.want || ok != (row.want == "") {
			t.Errorf("%s: verdict = %q, %v; want %q", name, got, ok, row.want)
		}
	}
}

func TestAttraction_PrefersCheaperAndThenCachedImages(t *testing.T) {
	wants, images := resources(500, 500), []string{"nginx"}
	empty, busy := offer("a", "fra", 4000, 4000), offer("b", "ams", 1000, 1000)
	if attraction([]gondola.Offer{empty}, wants, images) <= attraction([]gondola.Offer{busy}, wants, images) {
		t.Error("a busy region is preferred to an empty one")
	}
	cached := empty
	cached.Images = []string{"docker.io/library/nginx:latest"}
	if attraction([]gondola.Offer{cached}, wants, images) <= attraction([]gondola.Offer{empty}, wants, images) {
		t.Error("a region with the image is not preferred to an equal one without")
	}
	if got := attraction([]gondola.Offer{offer("c", "x", 0, 0)}, wants, images); got != 0 {
		t.Errorf("attraction of a full region = %d, want 0", got)
	}
}

func TestMarket_KnowsTheRoomForAVolume(t *testing.T) {
	m := newMarket(nil, nil)
	tell := func(worker string, region gondola.Region, diskFree int64, cordoned bool) {
		o := offer(worker, region, 1000, 1000)
		o.DiskFree, o.Cordoned = diskFree, cordoned
		m.take(gondola.Change{Worker: o.Worker, Offer: &o})
	}
	tell("a", "fra", 10<<30, false)
	if bytes, known := m.room("fra"); known {
		t.Errorf("room before the platform has told all = %d, want not known", bytes)
	}
	tell("b", "fra", 30<<30, true)
	tell("c", "ams", -1<<30, false) // more is promised than the disk has left
	tell("d", "gru", 0, false)
	m.take(gondola.Change{Worker: "a", Synced: true})
	for region, want := range map[gondola.Region]struct {
		bytes int64
		known bool
	}{"fra": {10 << 30, true}, "ams": {0, true}, "gru": {0, false}, "nowhere": {0, false}} {
		if bytes, known := m.room(region); bytes != want.bytes || known != want.known {
			t.Errorf("room in %s = %d, %v; want %d, %v", region, bytes, known, want.bytes, want.known)
		}
	}
}

func TestMarket_CountsPlacedPodsUntilTheOfferShowsThem(t *testing.T) {
	m, now := newMarket(nil, nil), time.Now()
	take := func(changes ...gondola.Change) {
		for _, c := range changes {
			m.take(c)
		}
	}
	free := func() int64 {
		offers, known := m.region("local", "", now)
		if !known || len(offers) != 1 {
			t.Fatalf("offers of local = %v, %v", offers, known)
		}
		return offers[0].Free.CPUMillis
	}
	if _, known := m.region("local", "", now); known {
		t.Fatal("a market that was told nothing knows something")
	}
	o := offer("w", "local", 4000, 4000)
	take(gondola.Change{Worker: "w", Offer: &o}, gondola.Change{Worker: "w", Synced: true})
	m.reserve("uid-1", "local", resources(1000, 100), now)
	m.reserve("uid-2", "fra", resources(1000, 100), now)
	if free() != 3000 {
		t.Errorf("free after a Pod was placed = %d, want 3000", free())
	}

	// The Machine is there, the offer still the old one.
	take(gondola.Change{Worker: "w", Machine: &gondola.Machine{Config: &gondola.Config{Metadata: map[string]string{"pod": "uid-1"}}}})
	if free() != 3000 {
		t.Errorf("free before the next offer = %d, want 3000", free())
	}
	o.Free.CPUMillis = 3000
	take(gondola.Change{Worker: "w", Offer: &o})
	if free() != 3000 {
		t.Errorf("free after the next offer = %d, want 3000: the Pod must not count twice", free())
	}

	m.reserve("uid-3", "local", resources(1000, 100), now)
	if free() != 2000 {
		t.Errorf("free = %d, want 2000", free())
	}
	m.release("uid-3")
	if free() != 3000 {
		t.Errorf("free after a place was given up = %d, want 3000", free())
	}
	m.reserve("uid-4", "local", resources(1000, 100), now.Add(-2*pendingLife))
	if free() != 3000 {
		t.Errorf("free = %d, want 3000: a Pod that never came counts no longer", free())
	}
	take(gondola.Change{Worker: "w", Lost: true})
	if offers, known := m.region("local", "", now); !known || len(offers) != 0 {
		t.Errorf("offers of a lost worker = %v, %v; want none, known", offers, known)
	}
}
