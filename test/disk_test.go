package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
)

// TestFullDisk fills the disk of the data directory: what runs goes on, what is asked for gets a clear answer, and all is well once there is
// room again.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and mounts")
	}
	h := newHost(t, "gddisk")
	h.data = filepath.Join(t.TempDir(), "disk")
	image := filepath.Join(t.TempDir(), "image")
	must(t, "truncate", "-s", "400M", image)
	must(t, "mkfs.ext4", "-q", "-m", "0", image)
	if err := os.Mkdir(h.data, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, h.data).CombinedOutput(); err != nil {
		t.Skipf("no disk of its own can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() { must(t, "umount", h.data) })
	h.emptyStays = true
	h.start(t, "--no-kubernetes", "--region", "aaa")
	ip := h.runMachine(t, "before")
	stopped := h.runMachine(t, "stopped")
	h.must(t, "gondola", "machine", "stop", "stopped")

	full := filepath.Join(h.data, "full")
	fill := exec.Command("dd", "if=/dev/zero", "of="+full, "bs=64k")
	if err := fill.Run(); err == nil {
		t.Fatal("the disk is not full")
	}
	h.must(t, "hello", "curl", "-s", "-m", "5", "http://"+ip+":8080/while-full")
	began := time.Now()
	for _, args := range [][]string{{"machine", "run", "--name", "during", "gondola.local/hello"}, {"machine", "start", "stopped"}, {"app", "create", "during"}} {
		out, err := h.bounded(args...)
		if err == nil {
			continue // what fits into a page that the database has anyway
		}
		if !strings.Contains(string(out), "full") && !strings.Contains(string(out), "no space left") {
			t.Errorf("gondola %s on a full disk says:\n%s", strings.Join(args, " "), out)
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("three commands on a full disk took %s", took)
	}
	h.must(t, "gondola", "machine", "list")
	h.must(t, "gondola", "exec", "before", "echo", "alive")
	h.must(t, "hello", "curl", "-s", "-m", "5", "http://"+ip+":8080/still")

	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	h.must(t, "gondola", "machine", "start", "stopped")
	h.answers(t, stopped)
	after := h.runMachine(t, "after")
	h.must(t, "hello", "curl", "-s", "-m", "5", "http://"+after+":8080/")
	if out := h.must(t, "gondola", "logs", "before"); !strings.Contains(out, "still") && !strings.Contains(out, "while-full") {
		h.must(t, "hello", "curl", "-s", "-m", "5", "http://"+ip+":8080/logs-again")
		if out := h.must(t, "gondola", "logs", "before"); !strings.Contains(out, "logs-again") {
			t.Errorf("a Machine's logs do not go on once there is room:\n%s", out)
		}
	}
	// as a daemon that starts on a disk that became full while it was away
	h.stop(t)
	_ = exec.Command("dd", "if=/dev/zero", "of="+full, "bs=64k").Run()
	if err := h.run(); err != nil && !strings.Contains(err.Error(), "full") && !strings.Contains(err.Error(), "no space left") {
		t.Errorf("gondola up on a full disk: %v", err)
	} else if err == nil {
		h.stop(t)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if err := h.run(); err != nil {
		t.Fatalf("gondola up once there is room again: %v", err)
	}
	h.answers(t, ip)
}

// runMachine runs the demo image by hand and returns its address, once it answers.
func (h *host) runMachine(t *testing.T, name string) string {
	t.Helper()
	var m gondola.Machine
	if err := json.Unmarshal([]byte(h.must(t, "gondola", "machine", "run", "--json", "--name", name, "gondola.local/hello")), &m); err != nil {
		t.Fatal(err)
	}
	address := m.Gondola.Addresses[0].String()
	h.answers(t, address)
	return address
}

// answers waits for the demo image at an address: a Machine is started once its program is, and that has yet to listen.
func (h *host) answers(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; pause(100 * time.Millisecond) {
		out, err := h.output("hello", "curl", "-s", "-m", "2", "http://"+address+":8080/")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machine at %s does not answer: %v %s", address, err, out)
		}
	}
}

// bounded runs a gondola command for at most 20 seconds.
func (h *host) bounded(args ...string) ([]byte, error) {
	c := h.command(args...)
	timer := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() })
	defer timer.Stop()
	return c.CombinedOutput()
}
