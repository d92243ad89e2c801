package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"gondola"
	"gondola/internal/store"
)

// A caller that ends while its change is under way hears just that, at whatever moment it ends: no error of the database's.
func TestServer_SaysOfAChangeThatWasCutOffThatItsCallerEnded(t *testing.T) {
	s, err := store.OpenServer(filepath.Join(t.TempDir(), "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.CreateApp(t.Context(), gondola.NewApp{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	const secrets = 20
	var all []store.Secret
	for i := range secrets {
		all = append(all, store.Secret{App: "shop", Name: "S" + string(rune('A'+i)), Digest: "d", Sealed: []byte("before")})
	}
	if _, err := s.ChangeSecrets(t.Context(), "shop", all, secrets); err != nil {
		t.Fatal(err)
	}
	for at := range secrets {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := s.ResealSecrets(ctx, func(old store.Secret) (store.Secret, error) {
			if n == at {
				cancel()
				// There is one connection that writes: this gets it once the transaction is taken back.
				if _, err := s.CreateApp(t.Context(), gondola.NewApp{Name: gondola.AppName(fmt.Sprint("app-", at))}); err != nil {
					t.Error(err)
				}
			}
			n++
			old.Sealed = []byte("after")
			return old, nil
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cut off at secret %d: %v", at, err)
		}
	}
	kept, _, err := s.Secrets(t.Context(), "shop")
	if err != nil || len(kept) != secrets {
		t.Fatalf("Secrets = %d, %v", len(kept), err)
	}
	for _, k := range kept {
		if string(k.Sealed) != "before" {
			t.Errorf("secret %s is %s after nothing but changes that were cut off", k.Name, k.Sealed)
		}
	}
}
