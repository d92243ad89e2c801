package runsc

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"gondola/internal/driver/oci"
)

// TestUmounter runs the program in a mount namespace of its own, where it may unmount /proc.
func TestUmounter(t *testing.T) {
	code := umounterCode[runtime.GOARCH]
	if code == nil {
		t.Skipf("runsc unmounts by itself on %s", runtime.GOARCH)
	}
	if os.Getuid() != 0 {
		t.Skip("only root unmounts")
	}
	fd, err := memoryProgram(oci.Executable(code))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	for said, want := range map[string]bool{"x": true, "": false} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd))
		cmd.ExtraFiles = []*os.File{r}
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if _, err := w.WriteString(said); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if err := cmd.Wait(); (err == nil) != want {
			t.Errorf("after %q: %v; want success %v", said, err, want)
		}
	}
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Errorf("/proc of this process is gone: %v", err)
	}
}
