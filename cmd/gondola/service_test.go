package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola/internal/cli"
)

// installed is what `gondola service install --print` prints where there is this unit file, and then has in it.
func installed(t *testing.T, unit string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	p := &program{unit: unit}
	root := cli.New(cli.Parts{Commands: p.commands(), DataDir: dataDir(), Out: &out})
	root.SetArgs(append([]string{"service", "install", "--print"}, args...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unit, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(out.String(), "ExecStart=")
	command, _, _ = strings.Cut(command, "\n")
	return command
}

func TestServiceInstall_WithoutFlagsKeepsThoseOfTheService(t *testing.T) {
	t.Setenv("GONDOLA_DATA", "/srv/gondola")
	const up = "/usr/local/bin/gondola up"
	unit := filepath.Join(t.TempDir(), "gondola.service")
	if got, want := installed(t, unit), up+" --data /srv/gondola"; got != want {
		t.Errorf("first install = %q, want %q", got, want)
	}
	t.Setenv("GONDOLA_DATA", "")
	first := installed(t, unit, "--data", "/srv/gondola", "--listen", "192.0.2.10", "--no-kubernetes")
	if want := up + " --data /srv/gondola --listen 192.0.2.10 --no-kubernetes"; first != want {
		t.Errorf("install with flags = %q, want those alone: %q", first, want)
	}
	if got := installed(t, unit); got != first {
		t.Errorf("upgrade without flags = %q, want %q", got, first)
	}
	t.Setenv("GONDOLA_DATA", "/elsewhere")
	if got := installed(t, unit); got != first {
		t.Errorf("upgrade from another environment = %q, want %q", got, first)
	}
	t.Setenv("GONDOLA_DATA", "")
	if got, want := installed(t, unit, "--region", "fra"), up+" --region fra"; got != want {
		t.Errorf("install with another flag = %q, want %q", got, want)
	}
}
