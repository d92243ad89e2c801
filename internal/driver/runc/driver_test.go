package runc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/runc"
	"gondola/internal/pilot"
)

// built returns a directory with gondola-pilot and with an image, built once for all tests of a run.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "rct-")
	if err != nil {
		return "", err
	}
	for out, pkg := range map[string]string{"gondola-pilot": "gondola/cmd/gondola-pilot", "image/program": "gondola/internal/driver/drivertest/program/cmd"} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%w: %s", err, out)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	return dir, os.Mkdir(filepath.Join(dir, "image/tmp"), 0o777)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getuid() == 0 {
		if dir, _ := built(); dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

func TestDriver(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Fixture {
		d := newDriver(t)
		return drivertest.Fixture{
			Driver: d,
			Spec: func(t *testing.T, containers []pilot.Container, volumes []pilot.Volume) pilot.Spec {
				spec := newSpec(t, d)
				dir, _ := built()
				for _, c := range containers {
					c.Image, c.Tree = "program", filepath.Join(dir, "image")
					spec.Containers = append(spec.Containers, c)
				}
				spec.Volumes = volumes
				return spec
			},
			Renew: func(t *testing.T, spec pilot.Spec) {
				removeNetNS(spec.Machine)
				makeNetNS(t, spec.Machine)
			},
			KillSandbox: func(t *testing.T, spec pilot.Spec) { kill9(t, filepath.Join(spec.RunDir, driver.SandboxRecord)) },
			KillPilot:   func(t *testing.T, spec pilot.Spec) { kill9(t, filepath.Join(spec.Dir, "pilot.json")) },
		}
	})
}

func newDriver(t *testing.T) *runc.Driver {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("namespaces are made by root")
	}
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runc.Find(""); err != nil {
		t.Fatal(err)
	}
	return runc.New(runc.Config{PilotPath: filepath.Join(dir, "gondola-pilot")})
}

// newSpec returns the Spec of a Machine without containers. When the test ends it is killed, and nothing of it may be left.
func newSpec(t *testing.T, d *runc.Driver) pilot.Spec {
	t.Helper()
	id := gondola.NewMachineID()
	netns := makeNetNS(t, id)
	run := filepath.Join("/run/gondola-rct", string(id))
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := pilot.Spec{
		Machine: id, Instance: "rct", Version: gondola.NewVersion(time.Now()), Dir: filepath.Join(t.TempDir(), "m"), RunDir: run,
		Socket: run + ".sock", NetNS: netns, Cgroup: "gondola-rct/" + string(id), Hostname: "probe",
		Hosts: "127.0.0.1 localhost\n", Resolv: "nameserver 127.0.0.1\n",
	}
	t.Cleanup(func() {
		for range 2 {
			if err := d.Kill(context.Background(), spec); err != nil {
				t.Errorf("Kill: %v", err)
			}
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(spec.Dir, "pilot.log"))
			t.Logf("pilot.log:\n%s", log)
		}
		checkNothingLeft(t, spec)
		removeNetNS(id)
		os.RemoveAll(run)
		os.Remove(filepath.Dir(run)) // when it is the last one's
	})
	return spec
}

func checkNothingLeft(t *testing.T, spec pilot.Spec) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(spec.Dir)) || bytes.Contains(mounts, []byte(spec.RunDir)) {
		t.Errorf("mounts of the Machine are left (%v)", err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		if left, _ := filepath.Glob(pattern + spec.Cgroup); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		parents, _ := filepath.Glob(pattern + filepath.Dir(spec.Cgroup))
		for _, dir := range parents {
			os.Remove(dir)
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range processes {
		b, err := os.ReadFile(file)
		if err != nil || len(b) == 0 { // ended, if its parent has not yet asked how
			continue
		}
		if bytes.Contains(b, []byte(spec.Dir)) || bytes.Contains(b, []byte(spec.RunDir)) {
			t.Errorf("a process is left: %s %q", file, b)
		}
		if group, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup")); err == nil && strings.Contains(string(group), spec.Cgroup) {
			t.Errorf("a process is left in the cgroup: %s %q", file, b)
		}
	}
	if _, err := os.Stat(spec.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func kill9(t *testing.T, record string) {
	t.Helper()
	p, err := driver.ReadProcess(record)
	fd := -1
	if err == nil {
		fd, err = unix.PidfdOpen(p.PID, 0)
	}
	if err == nil {
		defer unix.Close(fd)
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	if err == nil {
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
	}
	if err != nil {
		t.Fatalf("kill -9 of %s: %v", record, err)
	}
}

func TestFind_NamesThePackageOfAMissingProgram(t *testing.T) {
	_, err := runc.Find("/no/such/runc")
	if !errors.Is(err, gondola.ErrUnsupported) || !strings.Contains(err.Error(), "apt-get install runc") {
		t.Errorf("Find = %v, want ErrUnsupported and how to install it", err)
	}
}

func makeNetNS(t *testing.T, id gondola.MachineID) string {
	t.Helper()
	name := "rct-" + string(id)
	for _, args := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	return "/run/netns/" + name
}

func removeNetNS(id gondola.MachineID) { exec.Command("ip", "netns", "del", "rct-"+string(id)).Run() }
