package runsc

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"gondola/internal/driver/oci"
)

// TestLimiter runs the program of a sandbox's root on the host, in directories of no cgroup.
func TestLimiter(t *testing.T) {
	code := limiterCode[runtime.GOARCH]
	if code == nil {
		t.Skipf("containers see no limits on %s", runtime.GOARCH)
	}
	dir := t.TempDir()
	program, file := filepath.Join(dir, "limiter"), filepath.Join(dir, "group", "memory.max")
	if err := os.WriteFile(program, oci.PauseProgram(code...), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "d"+dir+"/group", "fmemory.max", "w67108864", "d"+dir+"/new", "w.", "x").Output()
	if err != nil || string(out) != "." {
		t.Errorf("it wrote %q, %v; want a dot and success", out, err)
	}
	if b, _ := os.ReadFile(file); string(b) != "67108864" {
		t.Errorf("memory.max = %q; want 67108864", b)
	}
	if st, err := os.Stat(dir + "/new"); err != nil || !st.IsDir() {
		t.Errorf("the new directory: %v", err)
	}
	for _, args := range [][]string{{"d" + file, "x"}, {"fnone", "x"}, {"fnone", "w1", "x"}} {
		if err := exec.Command(program, args...).Run(); err == nil {
			t.Errorf("%q succeeded", args)
		}
	}
}
