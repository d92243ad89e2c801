package gondola_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gondola"
)

func TestNewToken_NamesArePrintableAndShort(t *testing.T) {
	for name, ok := range map[string]bool{
		"":                             true,
		"ci of Zürich, №2 (€)":         true,
		strings.Repeat("ü", 64):        true,
		strings.Repeat("ü", 65):        false,
		"two\nlines":                   false,
		"a\u200bzero-width space":      false,
		"a\u00a0space of another kind": false,
	} {
		if err := (gondola.NewToken{Name: name}).Validate(time.Now()); (err == nil) != ok || err != nil && !errors.Is(err, gondola.ErrInvalid) {
			t.Errorf("Validate of the name %q = %v, want nil: %t", name, err, ok)
		}
	}
}
