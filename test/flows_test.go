// Package test runs user flows against the built binary: a whole host in a network namespace of its own, `gondola up` in it, and then what a
// person types (test/scripts/*.txtar). It needs root and bin/gondola, which `make build` makes.
package test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gondola"
)

// host is one simulated machine: a network namespace, a data directory and a running `gondola up`.
type host struct {
	netns, data, home, bin string
	up                     *exec.Cmd
	log                    *os.File
	emptyStays             bool     // the data directory is a mount point
	env                    []string // of the daemon and all commands
	args                   []string // of the last `gondola up`
	exited                 chan error
}

func TestFlows(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and sandboxes")
	}
	h := newHost(t, "gdflow")
	h.start(t, "--region", "aaa", "--region", "bbb")
	screens := terminals{}
	testscript.RunT(oneByOne{t}, testscript.Params{
		Dir: "scripts",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", h.bin+":"+os.Getenv("PATH"))
			e.Setenv("KUBECONFIG", h.kubeconfig())
			e.Setenv("GONDOLA_DATA", h.data)
			e.Setenv("HOME", h.home)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"eventually":  eventually,
			"crash":       func(ts *testscript.TestScript, _ bool, _ []string) { h.crash(ts) },
			"up":          func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(h.run(args...)) },
			"killfile":    killFile,
			"killmachine": func(ts *testscript.TestScript, _ bool, args []string) { h.killMachine(ts, args[0]) },
			"set":         setFromOutput,
			"same":        same,
			"machineof":   machineOf,
			"pilotback":   pilotBack,
			"fill":        fill,
			"crowd":       h.crowd,
			"terminal":    screens.start,
			"see":         screens.see,
			"type":        screens.typeKeys,
			"resize":      screens.resize,
			"exits":       screens.exits,
			"outside":     func(ts *testscript.TestScript, _ bool, _ []string) { h.outside(ts) },
			"registry":    func(ts *testscript.TestScript, _ bool, args []string) { h.registry(ts, args) },
			"builds":      h.builds,
		},
		RequireExplicitExec: true,
	})
}

// oneByOne runs scripts one after the other: they share a host, and some crash it.
type oneByOne struct{ *testing.T }

func (t oneByOne) Parallel()     {}
func (t oneByOne) Verbose() bool { return testing.Verbose() }
func (t oneByOne) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(oneByOne{t}) })
}

// program is the gondola that is tested.
func program() string {
	built, err := filepath.Abs("../bin/gondola")
	if err != nil {
		panic(err)
	}
	return cmp.Or(os.Getenv("GONDOLA_TEST_BINARY"), built)
}

// newHost makes the namespace and the commands that run in it, and sees to it that nothing is left of them.
func newHost(t *testing.T, name string) *host {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	program := program()
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	dir := t.TempDir()
	h := &host{netns: fmt.Sprintf("%s%d", name, os.Getpid()), data: filepath.Join(dir, "data"), home: filepath.Join(dir, "home"), bin: filepath.Join(dir, "bin")}
	for _, d := range []string{h.home, h.bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "ip", "netns", "add", h.netns)
	t.Cleanup(func() { must(t, "ip", "netns", "delete", h.netns) })
	must(t, "ip", "-n", h.netns, "link", "set", "lo", "up")
	enter := "exec nsenter --net=/run/netns/" + h.netns + " "
	for name, command := range map[string]string{
		"gondola": program, "kubectl": program + " kubectl", "hello": filepath.Join(root, "bin", "gondola-hello"), "inside": "",
	} {
		if err := os.WriteFile(filepath.Join(h.bin, name), []byte("#!/bin/sh\n"+enter+command+" \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *host) kubeconfig() string { return filepath.Join(h.home, "kubeconfig") }

// start runs `gondola up` and purges everything when the test ends, checking that nothing is left.
func (h *host) start(t *testing.T, args ...string) {
	t.Cleanup(func() {
		h.stop(t)
		instance, err := os.ReadFile(filepath.Join(h.data, "instance"))
		if err != nil {
			t.Error(err)
		}
		out, err := h.command("down", "--purge").CombinedOutput()
		if err != nil {
			t.Errorf("down --purge: %v\n%s", err, out)
		}
		if left, err := os.ReadDir(h.data); !errors.Is(err, os.ErrNotExist) && (!h.emptyStays || len(left) > 0) {
			t.Errorf("down --purge leaves %s with %v", h.data, left)
		}
		for kind, left := range h.leftovers(strings.TrimSpace(string(instance))) {
			if left != "" {
				t.Errorf("down --purge leaves %s:\n%s", kind, left)
			}
		}
		for _, look := range [][]string{{"nft", "list", "ruleset"}, {"ip", "-o", "link"}, {"ip", "route", "show", "table", "all"}} {
			out, _ := exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.netns}, look...)...).CombinedOutput()
			if strings.Contains(string(out), "gondola") || strings.Contains(string(out), "10.43.") || strings.Contains(string(out), "10.64.") {
				t.Errorf("down --purge leaves, by %s:\n%s", strings.Join(look, " "), out)
			}
		}
	})
	if err := h.run(args...); err != nil {
		t.Fatal(err)
	}
}

func (h *host) command(args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(h.bin, "gondola"), args...)
	c.Env = append(os.Environ(), "GONDOLA_DATA="+h.data, "KUBECONFIG="+h.kubeconfig(), "HOME="+h.home, "SUDO_USER=")
	c.Env = append(c.Env, h.env...)
	return c
}

// run starts `gondola up` and returns when it says that it is ready.
func (h *host) run(args ...string) error {
	h.args = args
	if err := h.launchUp(); err != nil {
		return err
	}
	return h.ready()
}

// launchUp starts `gondola up` as it was started last.
func (h *host) launchUp() error {
	log, err := os.CreateTemp(h.home, "up-*.log")
	if err != nil {
		return err
	}
	defer log.Close()
	h.log, h.up = log, h.command(append([]string{"up"}, h.args...)...)
	h.up.Stdout, h.up.Stderr = log, log
	h.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.up.Start(); err != nil {
		return err
	}
	up, exited := h.up, make(chan error, 1)
	h.exited = exited
	go func() { exited <- up.Wait() }()
	return nil
}

// ready waits until `gondola up` says that it is.
func (h *host) ready() error {
	deadline := time.After(2 * time.Minute)
	for {
		b, _ := os.ReadFile(h.log.Name())
		if strings.Contains(string(b), "ready in") {
			return nil
		}
		select {
		case err := <-h.exited:
			b, _ := os.ReadFile(h.log.Name())
			return fmt.Errorf("gondola up ended: %w\n%s", err, b)
		case <-deadline:
			return fmt.Errorf("gondola up is not ready after 2 minutes:\n%s", b)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends `gondola up` as Ctrl-C does.
func (h *host) stop(t *testing.T) {
	if h.up == nil {
		return
	}
	_ = h.up.Process.Signal(os.Interrupt)
	if !h.gone(30 * time.Second) {
		t.Errorf("gondola up does not end on Ctrl-C")
		_ = h.up.Process.Kill()
	}
	if t.Failed() {
		b, _ := os.ReadFile(filepath.Join(h.data, "gondola.log"))
		t.Logf("end of gondola.log:\n%s", b[max(0, len(b)-8000):])
	}
}

// registry [FOLDER...]: serves images of Debian packages, and of the programs of those folders beside this, on 127.0.0.1:5000 of the host until the
// script ends.
func (h *host) registry(ts *testscript.TestScript, folders []string) {
	program := filepath.Join(h.bin, "registry")
	demo, err := filepath.Abs("../bin/gondola-hello")
	ts.Check(err)
	goBuild(ts, "build", "-o", program, "./registry")
	args := []string{"--net=/run/netns/" + h.netns, program, "-demo", demo}
	for _, folder := range folders {
		out := filepath.Join(h.bin, folder)
		goBuild(ts, "build", "-o", out, "./"+folder)
		args = append(args, out)
	}
	c := exec.Command("nsenter", args...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	ts.Check(err)
	ts.Check(c.Start())
	ts.Defer(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		ts.Fatalf("registry: %q, %v", line, err)
	}
}

// builds FOLDER: the tests of that folder beside this are a program on the host, called as the folder.
func (h *host) builds(ts *testscript.TestScript, _ bool, args []string) {
	out := filepath.Join(h.bin, args[0]+".test")
	goBuild(ts, "test", "-c", "-o", out, "./"+args[0])
	script := "#!/bin/sh\nexec nsenter --net=/run/netns/" + h.netns + " " + out + " \"$@\"\n"
	ts.Check(os.WriteFile(filepath.Join(h.bin, args[0]), []byte(script), 0o755))
}

func goBuild(ts *testscript.TestScript, args ...string) {
	c := exec.Command("go", args...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		ts.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// crash ends `gondola up` as a power failure does, for it alone.
func (h *host) crash(ts *testscript.TestScript) {
	ts.Check(h.up.Process.Kill())
	if !h.gone(10 * time.Second) {
		ts.Fatalf("gondola up is still there after SIGKILL")
	}
}

func (h *host) gone(within time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for h.up.Process.Signal(syscall.Signal(0)) == nil {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

// leftovers lists what the installation has outside its data directory, by kind; none of it may outlive `down --purge`.
func (h *host) leftovers(instance string) map[string]string {
	out := map[string]string{}
	for kind, glob := range map[string]string{"namespaces": "/run/netns/gondola-" + instance + "-*", "sockets": "/run/gondola/" + instance,
		"cgroups": "/sys/fs/cgroup/*/gondola/" + instance, "cgroups v2": "/sys/fs/cgroup/gondola/" + instance} {
		m, _ := filepath.Glob(glob)
		out[kind] = strings.Join(m, "\n")
	}
	var processes, mounts []string
	dirs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, d := range dirs {
		if exe, err := os.Readlink(d); err == nil && strings.HasPrefix(exe, h.data) {
			processes = append(processes, d+" "+exe)
		}
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, h.data) && (!h.emptyStays || !strings.Contains(l, " "+h.data+" ")) {
			mounts = append(mounts, l)
		}
	}
	out["processes"], out["mounts"] = strings.Join(processes, "\n"), strings.Join(mounts, "")
	return out
}

func must(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// eventually DURATION REGEXP COMMAND...: runs the command again and again until it succeeds and its output matches (with !: until it does
// not). The empty expression matches everything.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: eventually DURATION REGEXP COMMAND...")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	re, err := regexp.Compile("(?s)" + args[1])
	ts.Check(err)
	deadline := time.Now().Add(d)
	for {
		err := ts.Exec(args[2], args[3:]...)
		out := ts.ReadFile("stdout")
		if (err == nil && re.MatchString(out)) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %s: %v; output:\n%s%s", d, err, out, ts.ReadFile("stderr"))
		}
		pause(100 * time.Millisecond)
	}
}

func pause(d time.Duration) { <-time.After(d) }

// set NAME COMMAND...: the variable NAME becomes the command's output without its last newline.
func setFromOutput(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// same A B: the two strings are equal (with !: not).
func same(ts *testscript.TestScript, neg bool, args []string) {
	if (args[0] == args[1]) == neg {
		ts.Fatalf("%q and %q", args[0], args[1])
	}
}

// killFile SIGNAL ROLE MACHINE: sends a signal to the pilot or the sandbox of a Machine.
func killFile(ts *testscript.TestScript, _ bool, args []string) {
	role, id := args[0], args[1]
	pids := processesOf(role, id)
	if len(pids) == 0 {
		ts.Fatalf("no %s process of Machine %s", role, id)
	}
	for _, pid := range pids {
		ts.Check(syscall.Kill(pid, syscall.SIGKILL))
	}
}

// machineOf NAME UID: the variable NAME becomes the id of the Machine of the Pod with that uid.
func machineOf(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("gondola", "machine", "list", "--json"))
	var machines []gondola.Machine
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &machines))
	for _, m := range machines {
		if m.Name == "pod-"+args[1] {
			ts.Setenv(args[0], string(m.ID))
			return
		}
	}
	ts.Fatalf("no Machine of Pod %s", args[1])
}

// pilotBack DURATION MACHINE: a pilot of the Machine runs within that time.
func pilotBack(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(d); len(processesOf("pilot", args[1])) == 0; pause(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("no pilot of Machine %s after %s", args[1], d)
		}
	}
}

// processesOf finds the pilot ("pilot") or the sandbox ("sandbox") of a Machine by its cgroup, or its command line.
func processesOf(role, id string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		b, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		args := strings.Split(string(b), "\x00")
		if !strings.Contains(string(b), id) && ownerOf(d) != gondola.MachineID(id) {
			continue
		}
		isSandbox := strings.HasPrefix(args[0], "runsc-sandbox")
		isPilot := strings.Contains(filepath.Base(args[0]), "gondola-pilot") && len(args) > 1 && (args[1] == "run" || args[1] == "warm")
		if role == "sandbox" && isSandbox || role == "pilot" && isPilot {
			var pid int
			fmt.Sscanf(filepath.Base(d), "%d", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}
