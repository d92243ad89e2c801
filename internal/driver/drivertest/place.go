package drivertest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
)

// Place is where the tests of a driver that has real processes run their Machines. It is a short name of the package's own, which everything that
// is made there has in its name.
type Place string

// Spec returns the Spec of a Machine without containers, with its directories and its network namespace. When the test ends the Machine is
// killed, twice, and nothing of it may be left.
func (p Place) Spec(t *testing.T, d driver.Driver) pilot.Spec {
	t.Helper()
	id := gondola.NewMachineID()
	run := filepath.Join("/run/gondola-"+string(p), string(id))
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := pilot.Spec{
		Machine: id, Instance: string(p), Version: gondola.NewVersion(time.Now()), Dir: filepath.Join(t.TempDir(), "m"), RunDir: run,
		Socket: run + ".sock", NetNS: p.makeNetNS(t, id), Cgroup: "gondola-" + string(p) + "/" + string(id), Hostname: "probe",
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
		p.removeNetNS(id)
		os.RemoveAll(run)
		os.Remove(filepath.Dir(run)) // when it is the last one's
	})
	return spec
}

// Renew makes the network namespace of a Machine anew, for another sandbox of it.
func (p Place) Renew(t *testing.T, spec pilot.Spec) {
	t.Helper()
	p.removeNetNS(spec.Machine)
	p.makeNetNS(t, spec.Machine)
}

func (p Place) makeNetNS(t *testing.T, id gondola.MachineID) string {
	t.Helper()
	name := string(p) + "-" + string(id)
	for _, args := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	return "/run/netns/" + name
}

func (p Place) removeNetNS(id gondola.MachineID) {
	exec.Command("ip", "netns", "del", string(p)+"-"+string(id)).Run()
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

// Kill9 kills the process that a record in a Machine's directories names, and waits until it is dead.
func Kill9(t *testing.T, record string) {
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
