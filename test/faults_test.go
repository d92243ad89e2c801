package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gondola"
)

// TestFaults breaks what a host has to give, one thing after the other: what runs goes on, what is asked for gets a clear answer in bounded
// time, and all is well again by itself or with the command that docs/faults.md has. (TestFullDisk has one more.)
func TestFaults(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and sandboxes")
	}
	c := newCrashed(t)
	for _, fault := range []struct {
		name string
		test func(c *crashed)
	}{
		{"deleted image", (*crashed).deletedImage}, {"hung sandbox", (*crashed).hungSandbox}, {"no file descriptors", (*crashed).noFiles},
		{"no processes", (*crashed).noProcesses}, {"failing disk", (*crashed).failingDisk}, {"damaged database", (*crashed).damagedDatabase},
	} {
		whole := c.t
		t.Run(fault.name, func(t *testing.T) {
			c.t, c.kept, c.ids = t, false, newIDs()
			defer func() { c.t = whole }()
			fault.test(c)
			if err := errors.Join(c.destroyAll(), c.await((*crashed).clean)); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// check ends the test on an error.
func (c *crashed) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// answersStill checks that the Machine that was running answers, without asking the platform where it is.
func (c *crashed) answersStill(address string) {
	c.t.Helper()
	if code, err := c.get(c.ctx, address); err != nil || code != 200 {
		c.t.Errorf("the machine that runs answers %d, %v", code, err)
	}
}

func (c *crashed) address() string {
	m, err := c.machine(c.ctx)
	c.check(err)
	return "http://" + m.Gondola.Addresses[0].String() + ":8080/"
}

func (c *crashed) removeBelow(dir string) {
	entries, err := os.ReadDir(filepath.Join(c.data, dir))
	c.check(err)
	for _, e := range entries {
		c.check(os.RemoveAll(filepath.Join(c.data, dir, e.Name())))
	}
}

func (c *crashed) deletedImage() {
	c.check(c.pushImage())
	c.check(c.pull(c.ctx))
	c.check(c.await(running("")))
	address := c.address()
	c.removeBelow("images/trees")
	c.answersStill(address)
	c.check(c.restart(c.ctx))
	c.check(c.await(running(""))) // unpacked again
	c.removeBelow("images/trees")
	c.removeBelow("images/blobs/sha256")
	c.check(c.killSandbox(c.ctx))
	c.check(c.await(running(""))) // fetched again
}

func (c *crashed) hungSandbox() {
	c.check(c.makeMachine())
	hang := func() {
		c.check(c.on(c.ctx, func(ref gondola.Ref) error {
			for _, pid := range processesOf("sandbox", string(ref.ID)) {
				c.check(syscall.Kill(pid, syscall.SIGSTOP))
			}
			return nil
		}))
	}
	hang()
	began := time.Now()
	err := c.on(c.ctx, func(ref gondola.Ref) error {
		res, err := c.api.Exec(c.ctx, ref, gondola.ExecRequest{Command: []string{"true"}, Timeout: 2})
		if err == nil && res.ExitCode == 0 {
			c.t.Error("a command ran in a sandbox that hangs")
		}
		return err
	})
	c.t.Logf("exec: %v after %s", err, time.Since(began))
	if took := time.Since(began); took > 10*time.Second {
		c.t.Errorf("a command with 2 s of time took %s", took)
	}
	began = time.Now()
	c.check(c.stopMachine(c.ctx))
	c.check(c.awaitFor(isState(gondola.Stopped), 20*time.Second))
	took := time.Since(began)
	c.t.Logf("stop with 1 s of grace: %s", took)
	if took > 10*time.Second {
		c.t.Errorf("stop of a sandbox that hangs took %s with 1 s of grace", took)
	}
	c.check(c.startMachine(c.ctx))
	c.check(c.await(running("old")))
	hang()
	began = time.Now()
	c.check(c.restart(c.ctx))
	c.check(c.await(running("old")))
	c.t.Logf("restart with 1 s of grace: %s", time.Since(began))
	m, err := c.machine(c.ctx)
	c.check(err)
	m.Config.Containers[0].Healthchecks = []gondola.Healthcheck{{Kind: "liveness", Interval: 1, FailureThreshold: 2, Unhealthy: "stop",
		Exec: &gondola.ExecProbe{Command: []string{"true"}}}}
	_, err = c.api.Update(c.ctx, m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: *m.Config}})
	c.check(err)
	c.check(c.await(isState(gondola.Started)))
	c.check(c.await(running("old")))
	hang()
	began = time.Now()
	c.check(c.await(running("old"))) // by itself
	c.t.Logf("a liveness check has it started again after %s", time.Since(began))
	hang()
	c.check(c.destroy(c.ctx))
	c.check(c.awaitFor((*crashed).destroyed, recovery))
}

func (c *crashed) noFiles() {
	c.check(c.makeMachine())
	address, pid := c.address(), c.up.Process.Pid
	var before unix.Rlimit
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	c.check(err)
	c.check(unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before))
	c.check(unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open) + 2), Max: before.Max}, nil))
	c.refused("too many open files")
	c.answersStill(address)
	c.check(unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil))
	c.recovered()
}

// refused asks for one thing and another, and wants an answer within 20 s: that it works, or one of these texts, or none.
func (c *crashed) refused(texts ...string) {
	for _, args := range [][]string{{"machine", "run", "--app", string(app), "--name", "during", "--detach", "gondola.local/hello"}, {"volume", "create", "--app", string(app), "--size", "1", "during"}} {
		began := time.Now()
		out, err := c.bounded(args...)
		c.t.Logf("gondola %s: %v after %s: %s", strings.Join(args, " "), err, time.Since(began).Round(time.Millisecond), bytes.TrimSpace(out))
		if took := time.Since(began); took > 19*time.Second && err != nil && len(out) == 0 {
			c.t.Logf("there was no answer while it lasted")
			continue
		}
		clear := err == nil
		for _, text := range texts {
			clear = clear || strings.Contains(string(out), text)
		}
		if !clear {
			c.t.Errorf("gondola %s says\n%s\nwant one of %q", strings.Join(args, " "), out, texts)
		}
	}
}

// recovered checks that all is well: what is asked for works, and what ran runs.
func (c *crashed) recovered() {
	c.t.Helper()
	c.check(c.await(func(c *crashed, ctx context.Context) string {
		m, err := c.api.Create(ctx, app, gondola.CreateRequest{Name: "after", Config: gondola.Config{Image: "gondola.local/hello"}})
		if err != nil {
			return err.Error()
		}
		if m.State != gondola.Started {
			return "a machine made afterwards is " + string(m.State)
		}
		return ""
	}))
	all, err := c.api.List(c.ctx, app, gondola.ListFilter{})
	c.check(err)
	for _, m := range all {
		if m.Name != "m" {
			c.check(c.api.Destroy(c.ctx, gondola.Ref{App: app, ID: m.ID}, true))
		}
	}
	c.check(c.await(running("old")))
}

// noProcesses puts the daemon in a cgroup that takes no more processes or threads. Go ends a program that gets no thread, so it may die.
func (c *crashed) noProcesses() {
	c.check(c.makeMachine())
	address := c.address()
	group := "/sys/fs/cgroup/pids/" + c.netns
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil {
		group = "/sys/fs/cgroup/" + c.netns
	}
	c.check(os.Mkdir(group, 0o755))
	back := filepath.Dir(group)
	set := func(file, value string) error { return os.WriteFile(filepath.Join(group, file), []byte(value), 0) }
	defer func() {
		b, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		for _, pid := range strings.Fields(string(b)) {
			_ = os.WriteFile(filepath.Join(back, "cgroup.procs"), []byte(pid), 0)
		}
		c.check(os.Remove(group))
	}()
	c.check(set("cgroup.procs", strconv.Itoa(c.up.Process.Pid)))
	now, err := os.ReadFile(filepath.Join(group, "pids.current"))
	c.check(err)
	c.check(set("pids.max", strings.TrimSpace(string(now))))
	c.refused("resource temporarily unavailable", "no answer", "connection re", "EOF", "does not run", "broken", "is not running")
	c.answersStill(address)
	c.check(set("pids.max", "max"))
	if c.gone(0) {
		c.t.Log("the daemon has died of it")
		c.hangUp()
		c.check(c.launchUp())
		c.check(c.ready())
	}
	c.recovered()
}

const shutdownFS = 0x8004587d // EXT4_IOC_SHUTDOWN of fs/ext4/ext4.h

// failingDisk lets every access to the file system of the worker's database fail.
func (c *crashed) failingDisk() {
	dir, image := filepath.Join(c.data, "worker"), filepath.Join(c.home, "disk")
	must(c.t, "truncate", "-s", "64M", image)
	must(c.t, "mkfs.ext4", "-q", image)
	c.stop(c.t)
	kept := filepath.Join(c.home, "worker")
	must(c.t, "cp", "-a", dir, kept)
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		c.t.Skipf("no disk of its own can be mounted here: %v: %s", err, out)
	}
	must(c.t, "cp", "-a", kept+"/.", dir)
	c.hangUp()
	c.check(c.launchUp())
	c.check(c.ready())
	c.check(c.makeMachine())
	address := c.address()

	f, err := os.Open(dir)
	c.check(err)
	flags := uint32(0) // what was written is on the disk
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdownFS, uintptr(unsafe.Pointer(&flags)))
	f.Close()
	if errno != 0 {
		c.t.Fatalf("shut the file system down: %v", errno)
	}
	c.answersStill(address)
	c.refused(filepath.Join(dir, "aaa", "worker.db"))
	c.answersStill(address)

	c.stop(c.t)
	must(c.t, "umount", dir)
	must(c.t, "cp", image, image+".new") // the same disk, put right: a file system that failed does so as long as any process sees it
	must(c.t, "mount", "-o", "loop", image+".new", dir)
	c.hangUp()
	c.check(c.launchUp())
	c.check(c.ready())
	c.recovered()
	c.check(c.destroyAll())
	c.check(c.await((*crashed).destroyed))

	c.stop(c.t)
	must(c.t, "rm", "-r", kept)
	must(c.t, "cp", "-a", dir, kept)
	must(c.t, "umount", dir)
	must(c.t, "cp", "-a", kept+"/.", dir)
	c.hangUp()
	c.check(c.launchUp())
	c.check(c.ready())
}

// damagedDatabase writes over a page of the worker's database.
func (c *crashed) damagedDatabase() {
	c.check(c.makeMachine())
	address := c.address()
	backup := filepath.Join(c.home, "backup")
	if out, err := c.command("backup", backup).CombinedOutput(); err != nil {
		c.t.Fatalf("backup: %v\n%s", err, out)
	}
	c.stop(c.t)
	db := filepath.Join(c.data, "worker", "aaa", "worker.db")
	f, err := os.OpenFile(db, os.O_WRONLY, 0)
	c.check(err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), 2*4096)
	c.check(errors.Join(err, f.Close()))
	c.hangUp()
	c.check(c.launchUp())
	err = c.ready()
	if err == nil || !strings.Contains(err.Error(), db+" is damaged") || !strings.Contains(err.Error(), "gondola restore") {
		c.t.Fatalf("gondola up with a damaged database: %v", err)
	}
	c.t.Log(err)
	c.answersStill(address)

	for _, args := range [][]string{{"down", "--purge"}, {"restore", backup}} { // the command of docs/faults.md
		if out, err := c.command(args...).CombinedOutput(); err != nil {
			c.t.Fatalf("gondola %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	c.check(c.launchUp())
	c.check(c.ready())
	c.recovered()
}
