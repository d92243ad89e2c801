package api_test

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"gondola"
	"gondola/internal/api"
)

var discard = slog.New(slog.DiscardHandler)

// decoded is every type that a body is decoded into, by its name.
var decoded = map[string]func() any{
	"Config":          func() any { return new(gondola.Config) },
	"CreateRequest":   func() any { return new(gondola.CreateRequest) },
	"UpdateRequest":   func() any { return new(gondola.UpdateRequest) },
	"StopRequest":     func() any { return new(gondola.StopRequest) },
	"LeaseRequest":    func() any { return new(gondola.LeaseRequest) },
	"ExecRequest":     func() any { return new(gondola.ExecRequest) },
	"NewApp":          func() any { return new(gondola.NewApp) },
	"NewToken":        func() any { return new(gondola.NewToken) },
	"Payload":         func() any { return new(gondola.Payload) },
	"CreateVolume":    func() any { return new(gondola.CreateVolumeRequest) },
	"UpdateVolume":    func() any { return new(gondola.UpdateVolumeRequest) },
	"NetworkPolicy":   func() any { return new(gondola.NetworkPolicy) },
	"PolicySet":       func() any { return new(gondola.PolicySet) },
	"VirtualServices": func() any { return new([]gondola.VirtualService) },
	"Ask":             func() any { return new(gondola.Ask) },
	"Placements":      func() any { return new(gondola.PlacementsRequest) },
	"Resize":          func() any { return new(gondola.ResizeRequest) },
	"AddContainer":    func() any { return new(gondola.AddContainerRequest) },
}

// FuzzBody decodes bytes as every body that the API takes. What is taken can be printed and read again, to the same print: what is stored is what
// was sent.
func FuzzBody(f *testing.F) {
	for _, body := range wellFormed {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, make := range decoded {
			v := make()
			if err := api.Decode(b, v); err != nil {
				continue
			}
			printed, err := json.Marshal(v)
			if err != nil {
				t.Errorf("%s of %q cannot be printed: %v", name, b, err)
				continue
			}
			again := make()
			if err := api.Decode(printed, again); err != nil {
				t.Errorf("%s of %q is printed as %s, which cannot be read: %v", name, b, printed, err)
				continue
			}
			if twice, _ := json.Marshal(again); string(twice) != string(printed) {
				t.Errorf("%s of %q is printed as %s, then as %s", name, b, printed, twice)
			}
			if c, ok := v.(*gondola.Config); ok {
				_ = c.Validate()
			}
		}
	})
}

// FuzzQuery reads a query as every route does.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"state=started&timeout=5s&limit=3&cursor=1.x&force=true&metadata.k=v", "ttl=5&since=2026-01-01T00:00:00Z&tail=3", "%zz;&=&&", "limit=-1&timeout=9223372036854775807h"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = &url.URL{Path: "/", RawQuery: query}
		api.ReadQuery(r)
	})
}

// FuzzWords splits command lines.
func FuzzWords(f *testing.F) {
	for _, s := range []string{`a "b c" 'd e' f\ g`, `"`, `\`, "", "''", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := api.Words(line)
		n := 0
		for _, w := range words {
			n += len(w)
		}
		if err == nil && n > 3*len(line) { // a byte that is no character becomes U+FFFD
			t.Errorf("words(%q) = %q", line, words)
		}
	})
}

// FuzzLimiter lets a bucket take at odd times: never more than burst and what has come since.
func FuzzLimiter(f *testing.F) {
	f.Add(uint16(3), uint32(1000), []byte{0, 0, 0, 0, 200})
	f.Fuzz(func(t *testing.T, burst uint16, perSecondMilli uint32, gaps []byte) {
		rate := api.Rate{PerSecond: float64(perSecondMilli%1_000_000+1) / 1000, Burst: int(burst%50) + 1}
		now, begin, full, through := time.Unix(1e9, 0), time.Unix(1e9, 0), time.Time{}, 0
		for _, gap := range gaps {
			now = now.Add(time.Duration(gap) * 10 * time.Millisecond)
			next, after := api.Spend(full, now, rate)
			if after == 0 {
				full = next
				through++
			}
			if most := float64(rate.Burst) + now.Sub(begin).Seconds()*rate.PerSecond + 0.01; float64(through) > most {
				t.Fatalf("%d went through after %s at %s", through, now.Sub(begin), rate)
			}
		}
	})
}
