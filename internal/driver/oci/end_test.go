package oci_test

import (
	"os"
	"path/filepath"
	"testing"

	"gondola/internal/driver/oci"
)

func TestLastError_SaysTheReasonAlone(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if got := oci.LastError(log); got != "" {
		t.Errorf("without a log = %q, want nothing", got)
	}
	text := `{"level":"error","msg":"earlier"}
{"level":"error","msg":"run failed: start: exec: \"/bin/x\": not there"}
{"level":"warning","msg":"and more"}
no JSON
`
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := oci.LastError(log, "run failed: ", "start: "), `exec: "/bin/x": not there`; got != want {
		t.Errorf("= %q, want %q", got, want)
	}
}
