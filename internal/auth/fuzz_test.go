package auth_test

import (
	"errors"
	"testing"

	"gondola"
	"gondola/internal/auth"
)

// FuzzToken verifies what may be a token, narrowed or damaged. Nothing but what the authority made, or what was made from that, opens anything.
func FuzzToken(f *testing.F) {
	a := auth.New()
	narrow, _ := a.Mint(gondola.Caveats{Apps: []gondola.AppName{"shop"}, ReadOnly: true})
	for _, s := range []string{"", "gdl", "gdl..", "gdl.AAAA.AAAA", "gdl.a.b.c.d", "fm2_lJPECAAAAAAAAAAA", "FlyV1 FlyV1 Bearer x,,gdl.a.b"} {
		f.Add(s, uint(3), byte(1))
	}
	f.Fuzz(func(t *testing.T, s string, at uint, flip byte) {
		if _, err := a.Verify(s); !errors.Is(err, gondola.ErrUnauthorized) {
			t.Errorf("Verify(%q) = %v", s, err)
		}
		if _, err := a.Header(t.Context(), s, auth.From{Address: s}); !errors.Is(err, gondola.ErrUnauthorized) {
			t.Errorf("Header(%q) = %v", s, err)
		}
		auth.ID(s)
		damaged := []byte(narrow)
		damaged[at%uint(len(damaged))] ^= flip
		if p, err := a.Verify(string(damaged)); err == nil && string(damaged) != narrow {
			// base64 has spare bits at its end: what differs in them alone is the same token
			if same, _ := auth.ID(string(damaged)); same != p.ID() || p.ID() != idOf(t, narrow) || !p.ReadOnly || p.Sees("blog") {
				t.Errorf("Verify of %q, made from %q = %+v", damaged, narrow, p)
			}
		}
		child, err := auth.Attenuate(narrow, gondola.Caveats{Org: s})
		if err != nil {
			return
		}
		if p, err := a.Verify(child); err == nil && (!p.ReadOnly || p.Sees("blog")) {
			t.Errorf("a child of %q reaches further: %+v", narrow, p)
		}
	})
}

func idOf(t *testing.T, s string) gondola.TokenID {
	id, err := auth.ID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
