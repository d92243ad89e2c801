package seal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola/internal/seal"
)

func open(t *testing.T, path string) *seal.Key {
	t.Helper()
	k, err := seal.OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKey_OpensWhatItSealedAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k := open(t, path)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v, want mode 0600", fi.Mode(), err)
	}
	plain := []byte("hunter2-sealed")
	sealed := k.Seal("a", plain)
	if bytes.Contains(sealed, plain) || bytes.Equal(sealed, k.Seal("a", plain)) {
		t.Error("what is sealed can be read, or recognised")
	}
	if got, err := open(t, path).Open("a", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("Open after a restart = %q, %v", got, err)
	}
	bent := bytes.Clone(sealed)
	bent[len(bent)-1] ^= 1
	for what, err := range map[string]error{
		"about something else": second(k.Open("b", sealed)), "changed": second(k.Open("a", bent)), "cut": second(k.Open("a", sealed[:5])),
		"with another key": second(open(t, filepath.Join(t.TempDir(), "key")).Open("a", sealed)),
	} {
		if err == nil || !strings.Contains(err.Error(), "put the right key file back") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open of what was sealed %s = %v", what, err)
		}
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.OpenKey(path); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("OpenKey of a cut file = %v", err)
	}
}

func second(_ []byte, err error) error { return err }

func TestKey_DigestTellsEqualValuesAndNoMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k := open(t, path)
	d := k.Digest("a", []byte("x"))
	if d != open(t, path).Digest("a", []byte("x")) {
		t.Error("equal values have different digests")
	}
	for what, other := range map[string]string{"another value": k.Digest("a", []byte("y")), "another name": k.Digest("b", []byte("x")),
		"another key": open(t, filepath.Join(t.TempDir(), "key")).Digest("a", []byte("x"))} {
		if d == other {
			t.Errorf("%s has the same digest", what)
		}
	}
}

func TestKey_RenewForgetsTheOldOneOnceAllIsResealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k := open(t, path)
	sealed := k.Seal("a", []byte("x"))
	failed := errors.New("the disk is full")
	if err := k.Renew(func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("Renew = %v, want what reseal said", err)
	}
	if _, err := open(t, path).Open("a", sealed); err != nil {
		t.Errorf("a renewal that was cut short has lost what is sealed: %v", err)
	}
	var again []byte
	if err := k.Renew(func() error {
		plain, err := k.Open("a", sealed)
		again = k.Seal("a", plain)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	k = open(t, path)
	if got, err := k.Open("a", again); err != nil || string(got) != "x" {
		t.Errorf("after the renewal = %q, %v", got, err)
	}
	if _, err := k.Open("a", sealed); err == nil {
		t.Error("the old key is still there")
	}
}
