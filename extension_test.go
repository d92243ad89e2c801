package gondola_test

import (
	"os"
	"regexp"
	"testing"
)

// TestExtension_EveryFieldIsListed keeps the list of what we add to the wire whole.
func TestExtension_EveryFieldIsListed(t *testing.T) {
	source, err := os.ReadFile("extension.go")
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("docs/rfd/0002-gondola-extension.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range regexp.MustCompile(`json:"([a-z_]+)`).FindAllSubmatch(source, -1) {
		if ok, _ := regexp.Match(`\b`+string(tag[1])+`\b`, list); !ok {
			t.Errorf("docs/rfd/0002-gondola-extension.md does not list %q: a wire field begins there", tag[1])
		}
	}
}
