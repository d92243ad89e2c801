package runsc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/gvisor/runsc"
	"gondola/internal/pilot"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getuid() == 0 {
		if dir, _ := image(); dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// image returns an image that holds the probe program, and the pilot beside it, built once.
var image = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gvt-image-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for _, d := range []string{"bin", "etc", "tmp", "run"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	// The pilot's binary is runsc, always static: the test program itself is not, with the race detector.
	for out, pkg := range map[string]string{"bin/probe": "./testdata/probe", "pilot": "gondola/cmd/gondola-pilot"} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
		}
	}
	if err := os.Symlink("/run", filepath.Join(dir, "etc", "run")); err != nil {
		return "", err
	}
	return dir, nil
})

// machine is a Machine under test.
type machine struct {
	*testing.T
	*runsc.Runtime
	spec pilot.Spec
}

// boot makes a Machine; spec may be changed first. It is destroyed with the test, which fails if anything is left.
func boot(t *testing.T, change func(*pilot.Spec)) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("gVisor sandboxes are made by root")
	}
	tree, err := image()
	if err != nil {
		t.Fatal(err)
	}
	id := gondola.NewMachineID()
	runDir, err := os.MkdirTemp("/run", "gvt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runDir) })
	netns := "gvt-" + string(id)
	for _, args := range [][]string{{"netns", "add", netns}, {"-n", netns, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v %s", args, err, out)
		}
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", netns).Run() })
	spec := pilot.Spec{Machine: id, NetNS: "/run/netns/" + netns, Instance: "gvt", Dir: t.TempDir(), RunDir: runDir, Hostname: "probe", Cgroup: "gvt/" + string(id)}
	for _, name := range []string{"one", "two"} {
		spec.Containers = append(spec.Containers, pilot.Container{Name: name, Image: "probe", Tree: tree})
	}
	if change != nil {
		change(&spec)
	}
	m := &machine{t, runsc.New(runsc.Config{Executable: filepath.Join(tree, "pilot")}), spec}
	t.Cleanup(func() {
		if err := m.Destroy(context.Background(), spec); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		m.checkNothingLeft()
	})
	if _, err := m.Boot(t.Context(), spec); err != nil {
		t.Fatalf("Boot: %v", err)
	}
	return m
}

func (m *machine) checkNothingLeft() {
	m.Helper()
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(m.spec.Dir)) || bytes.Contains(mounts, []byte(m.spec.RunDir)) {
		m.Errorf("mounts are left: %s", mounts)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.spec.Cgroup + "/*/cgroup.procs"); len(left) > 0 {
		m.Errorf("cgroups are left: %v", left)
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/gvt/" + string(m.spec.Machine))
	for _, dir := range parents { // the driver's to remove, but here is none
		os.Remove(dir)
		os.Remove(filepath.Dir(dir))
	}
}

// start starts a container and returns what it has written, once it has ended or the test asks.
func (m *machine) start(name string, change func(*pilot.Run), args ...string) *output {
	m.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		m.Fatal(err)
	}
	run := pilot.Run{Args: append([]string{"/bin/probe"}, args...), Env: []string{"PATH=/bin"}, Stdout: w, Stderr: w}
	for _, c := range m.spec.Containers {
		if c.Name == name {
			run.Container = c
		}
	}
	if change != nil {
		change(&run)
	}
	if run.TTY {
		m.Cleanup(func() { w.Close() }) // the runtime copies to it
		err = m.Start(m.Context(), run)
	} else {
		err = m.Start(m.Context(), run)
		w.Close()
	}
	if err != nil {
		m.Fatalf("Start(%s): %v", name, err)
	}
	out := &output{lines: make(chan string, 100)}
	go func() {
		defer close(out.lines)
		b := make([]byte, 0, 4096)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			b = append(b, buf[:n]...)
			for {
				i := bytes.IndexByte(b, '\n')
				if i < 0 {
					break
				}
				out.lines <- strings.TrimRight(string(b[:i]), "\r")
				b = b[i+1:]
			}
			if err != nil {
				r.Close()
				return
			}
		}
	}()
	return out
}

type output struct{ lines chan string }

// line waits for a line.
func (o *output) line(t *testing.T) string {
	t.Helper()
	select {
	case l, ok := <-o.lines:
		if !ok {
			return "<end>"
		}
		return l
	case <-time.After(10 * time.Second):
		t.Fatal("no output within 10 s")
		return ""
	}
}

func (m *machine) wait(name string) pilot.Exit {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), 10*time.Second)
	defer cancel()
	exit, err := m.Wait(ctx, name)
	if err != nil {
		m.Fatalf("Wait(%s): %v", name, err)
	}
	return exit
}

// exec runs a command and returns its output and status.
func (m *machine) exec(name string, args ...string) (string, gondola.ExitStatus) {
	m.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(m.Context(), 10*time.Second)
	defer cancel()
	st, err := m.Exec(ctx, name, pilot.Exec{Args: append([]string{"/bin/probe"}, args...)}, gondola.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil {
		m.Fatalf("Exec(%v): %v (%s)", args, err, out.String())
	}
	return strings.TrimSpace(out.String()), st
}
