package failpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"gondola/internal/failpoint"
)

// TestMain is, in a process that a test starts, the program that reaches points.
func TestMain(m *testing.M) {
	if os.Getenv("REACH") == "" {
		os.Exit(m.Run())
	}
	for range 3 {
		failpoint.Hit("a")
		failpoint.Hit("b")
		os.Stdout.WriteString(".")
	}
}

// reach runs the program and says how often it passed all points, and whether it was killed.
func reach(t *testing.T, variable string) (passed int, killed bool) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = []string{"REACH=1", failpoint.Variable + "=" + variable}
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		killed = exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	}
	return len(out), killed
}

func TestHit_KillsAtTheNamedHitOnly(t *testing.T) {
	for _, row := range []struct {
		variable string
		passed   int
		killed   bool
	}{
		{"", 3, false}, {"c", 3, false}, {"a", 0, true}, {"b", 0, true}, {"a=2", 1, true}, {"b=3", 2, true}, {"a=4", 3, false}, {"a=x", 3, false},
	} {
		if passed, killed := reach(t, row.variable); passed != row.passed || killed != row.killed {
			t.Errorf("with %q it passed %d times, killed %v; want %d, %v", row.variable, passed, killed, row.passed, row.killed)
		}
	}
}

func TestHit_AFileArmsOneProcessOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "armed")
	if passed, killed := reach(t, "@"+file); passed != 3 || killed {
		t.Errorf("without the file it passed %d times, killed %v; want 3, false", passed, killed)
	}
	if err := os.WriteFile(file, []byte("b=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if passed, killed := reach(t, "@"+file); passed != 1 || !killed {
		t.Errorf("armed it passed %d times, killed %v; want 1, true", passed, killed)
	}
	if _, err := os.Stat(file + ".hit"); err != nil {
		t.Errorf("the process that died did not say so: %v", err)
	}
	if passed, killed := reach(t, "@"+file); passed != 3 || killed {
		t.Errorf("after that another one passed %d times, killed %v; want 3, false", passed, killed)
	}
}
