package cli_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gondola/internal/cli"
)

// TestDoc_NamesOnlyWhatThereIs walks the commands and flags of docs/cli.md.
func TestDoc_NamesOnlyWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	root := cli.New(cli.Parts{DataDir: t.TempDir()})
	commands := regexp.MustCompile("`gondola ([a-z ]+[a-z])[^`]*`").FindAllStringSubmatch(string(text), -1)
	if len(commands) < 40 {
		t.Fatalf("docs/cli.md has only %d commands", len(commands))
	}
	for _, m := range commands {
		words := strings.Fields(m[1])
		if found, rest, err := root.Find(words); err != nil || len(rest) > 0 || !found.HasParent() {
			t.Errorf("docs/cli.md has gondola %s, which is no command: %v", m[1], err)
		}
	}
	run, _, err := root.Find([]string{"machine", "run"})
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	for _, flag := range cli.Refused() {
		if !documented[flag] {
			t.Errorf("docs/cli.md does not say that --%s is refused", flag)
		}
	}
	for _, flag := range []string{"vm-size", "vm-cpus", "vm-memory", "vm-cpu-kind", "schedule", "file-local", "rm", "skip-dns-registration"} {
		if run.Flags().Lookup(flag) == nil || !documented[flag] {
			t.Errorf("--%s is not there, or not in docs/cli.md", flag)
		}
	}
}
