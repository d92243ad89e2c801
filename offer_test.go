package gondola_test

import (
	"testing"

	"gondola"
)

func TestOffer_KnowsAnImageByEveryFormOfItsReference(t *testing.T) {
	for long, short := range map[string]string{
		"docker.io/library/nginx:latest": "nginx",
		"docker.io/library/nginx:1.27":   "index.docker.io/nginx:1.27",
		"docker.io/me/app:latest":        "me/app",
		"localhost/app:latest":           "localhost/app",
		"127.0.0.1:5000/app@sha256:a":    "127.0.0.1:5000/app@sha256:a",
		"gondola.local/hello:latest":     "gondola.local/hello",
	} {
		for _, o := range []gondola.Offer{{Images: []string{"other/image", long}}, {Images: []string{short}}} {
			if !o.HasImages(short) || !o.HasImages(long, short) {
				t.Errorf("a worker that has %v is said to lack %s or %s", o.Images, short, long)
			}
			if o.HasImages(short, "127.0.0.1:5000/app:other") {
				t.Errorf("a worker that has %v is said to have another image", o.Images)
			}
		}
	}
}

func TestOffer_TakesWhatFitsAndIsPricedByWhatIsScarcer(t *testing.T) {
	size := func(millis, mb int64) gondola.Resources {
		return gondola.Resources{CPUMillis: millis, MemoryBytes: mb << 20}
	}
	o := gondola.Offer{Capacity: size(4000, 4096), Free: size(2000, 1024), FreeMachines: 10}
	for _, c := range []struct {
		want  gondola.Resources
		takes bool
		price float64
	}{
		{size(1000, 256), true, 3328.0 / 4096}, // memory is scarcer
		{size(2000, 0), true, 1},
		{size(2001, 0), false, 4001.0 / 4000},
		{size(0, 2048), false, 5120.0 / 4096},
	} {
		if takes, price := o.Takes(c.want), o.Price(c.want); takes != c.takes || price != c.price {
			t.Errorf("%v: takes %v at %v, want %v at %v", c.want, takes, price, c.takes, c.price)
		}
	}
	for _, none := range []gondola.Offer{{Capacity: o.Capacity, Free: o.Free}, {Capacity: o.Capacity, Free: o.Free, FreeMachines: 1, Cordoned: true}} {
		if none.Takes(size(1, 1)) || none.Price(size(1, 1)) <= o.Price(size(0, 2048)) {
			t.Errorf("a worker without addresses, or cordoned, would take a machine: %+v", none)
		}
	}
}
