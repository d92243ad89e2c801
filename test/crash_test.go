package test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gondola"
)

// crashes is how often the daemon is killed.
const crashes = 10

// TestCrash kills the daemon again and again, at random moments while Deployments are scaled and Machines are made by hand. At the end every
// Machine that was acknowledged is there once, every Pod has one Machine, and the host holds nothing but what these need.
func TestCrash(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and sandboxes")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t, "gdcrash")
	h.start(t, "--region", "aaa", "--region", "bbb")
	h.must(t, "kubectl", "create", "deployment", "a", "--image=gondola.local/hello", "--replicas=2")
	h.must(t, "kubectl", "create", "deployment", "b", "--image=gondola.local/hello", "--replicas=1")
	acknowledged := map[gondola.MachineID]bool{}
	for i := range crashes {
		stop := make(chan struct{})
		made := make(chan []gondola.MachineID)
		go func() { made <- h.disturb(stop, i) }()
		pause(time.Duration(random.IntN(3000)) * time.Millisecond)
		if err := h.up.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if !h.gone(10 * time.Second) {
			t.Fatal("gondola up is still there after SIGKILL")
		}
		close(stop)
		for _, id := range <-made {
			acknowledged[id] = true
		}
		if err := h.run(); err != nil {
			t.Fatalf("after crash %d: %v", i+1, err)
		}
	}
	h.must(t, "kubectl", "scale", "deployment", "a", "--replicas=3")
	h.must(t, "kubectl", "scale", "deployment", "b", "--replicas=1")
	for _, d := range []string{"a", "b"} {
		h.must(t, "kubectl", "rollout", "status", "deployment/"+d, "--timeout=60s")
	}
	var wrong string
	for deadline := time.Now().Add(60 * time.Second); ; pause(500 * time.Millisecond) {
		if wrong = h.account(t, acknowledged); wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d Machines were acknowledged; a minute after the last crash:\n%s", len(acknowledged), wrong)
		}
	}
}

// must runs a command of the host.
func (h *host) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := h.output(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (h *host) output(name string, args ...string) (string, error) {
	c := exec.Command(filepath.Join(h.bin, name), args...)
	c.Env = h.command().Env
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.Output()
	return string(out), err
}

// disturb scales Deployments up and down and makes Machines until stop closes, and returns the Machines whose making was acknowledged.
func (h *host) disturb(stop <-chan struct{}, round int) (made []gondola.MachineID) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return made
		default:
		}
		_, _ = h.output("kubectl", "scale", "deployment", "a", "--replicas="+fmt.Sprint(1+(n+round)%4))
		if len(made) < 1 {
			out, err := h.output("gondola", "machine", "run", "--json", "--detach", "--app", "byhand", "--name", fmt.Sprintf("m%d-%d", round, n), "gondola.local/hello")
			var m gondola.Machine
			if err == nil && json.Unmarshal([]byte(out), &m) == nil {
				made = append(made, m.ID)
			}
		}
		_, _ = h.output("kubectl", "scale", "deployment", "b", "--replicas="+fmt.Sprint(2-(n+round)%2))
	}
}

// account says what is wrong with the Machines, the Pods and the host; nothing if all is as it should be.
func (h *host) account(t *testing.T, acknowledged map[gondola.MachineID]bool) string {
	t.Helper()
	var machines []gondola.Machine
	if err := json.Unmarshal([]byte(h.must(t, "gondola", "machine", "list", "--json")), &machines); err != nil {
		t.Fatal(err)
	}
	var wrong []string
	there, pods, names := map[gondola.MachineID]bool{}, map[string]int{}, map[string]int{}
	for _, m := range machines {
		there[m.ID] = true
		names[m.Name]++
		if m.State != gondola.Started {
			wrong = append(wrong, fmt.Sprintf("machine %s (%s) is %s", m.ID, m.Name, m.State))
		}
		if strings.HasPrefix(m.Name, "pod-") {
			pods[strings.TrimPrefix(m.Name, "pod-")]++
		}
	}
	for id := range acknowledged {
		if !there[id] {
			wrong = append(wrong, fmt.Sprintf("machine %s was acknowledged and is lost", id))
		}
	}
	for name, n := range names {
		if n != 1 {
			wrong = append(wrong, fmt.Sprintf("%d machines are named %s", n, name))
		}
	}
	want := strings.Fields(h.must(t, "kubectl", "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"))
	if got := slices.Sorted(maps.Keys(pods)); len(want) != 4 || !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		wrong = append(wrong, fmt.Sprintf("machines of pods %v, pods %v, want the same 4", got, want))
	}
	for kind, ids := range h.leftoverIDs(t) {
		slices.Sort(ids)
		if got := slices.Compact(ids); !slices.Equal(got, slices.Sorted(maps.Keys(there))) {
			wrong = append(wrong, fmt.Sprintf("%s of %v, machines %v", kind, got, slices.Sorted(maps.Keys(there))))
		}
	}
	return strings.Join(wrong, "\n")
}

// isGateway says whether a namespace or the description of a link is a virtual node's.
func isGateway(name string) bool { return strings.Contains(name, "-gateway.") }

// isCopy says whether a process has just been forked and is about to become another program: until then it looks like its parent.
func isCopy(proc string, cmdline []byte) bool {
	stat, _ := os.ReadFile(proc + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest) // state, parent
	if len(fields) < 2 {
		return true // it is gone
	}
	parent, err := os.ReadFile("/proc/" + fields[1] + "/cmdline")
	return err == nil && len(cmdline) > 0 && bytes.Equal(parent, cmdline)
}

// leftoverIDs are the Machines of which the host has something, by kind of thing.
func (h *host) leftoverIDs(t *testing.T) map[string][]gondola.MachineID {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.data, "instance"))
	if err != nil {
		t.Fatal(err)
	}
	instance := strings.TrimSpace(string(b))
	out := map[string][]gondola.MachineID{"namespaces": nil, "pilots": nil, "sandboxes": nil}
	namespaces, _ := filepath.Glob("/run/netns/gondola-" + instance + "-*")
	for _, n := range namespaces {
		if isGateway(n) {
			continue // it stays while the installation does
		}
		out["namespaces"] = append(out["namespaces"], gondola.MachineID(strings.TrimPrefix(filepath.Base(n), "gondola-"+instance+"-")))
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/memory/gondola/" + instance + "/*")
	unified, _ := filepath.Glob("/sys/fs/cgroup/gondola/" + instance + "/*")
	for _, c := range append(cgroups, unified...) {
		if fi, err := os.Stat(c); err == nil && fi.IsDir() && !strings.HasPrefix(filepath.Base(c), "warm.") { // which is no Machine's
			out["cgroups"] = append(out["cgroups"], gondola.MachineID(filepath.Base(c)))
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		exe, err := os.Stat(p + "/exe")
		if err != nil || !h.isPilot(exe) {
			continue
		}
		b, _ := os.ReadFile(p + "/cmdline")
		if isCopy(p, b) {
			continue
		}
		args := strings.Split(strings.Trim(string(b), "\x00"), "\x00")
		kind := ""
		switch {
		case strings.HasPrefix(args[0], "runsc-sandbox"):
			kind = "sandboxes"
		case len(args) > 2 && (args[1] == "run" || args[1] == "warm"):
			kind = "pilots"
		case len(args) > 2 && args[1] == "runc-monitor":
			kind = "monitors"
		default:
			continue
		}
		id := ownerOf(p)
		if strings.HasPrefix(string(id), "warm.") {
			continue
		}
		out[kind] = append(out[kind], cmp.Or(id, idIn(string(b))))
	}
	return out
}

func (h *host) isPilot(exe os.FileInfo) bool {
	pilots, _ := filepath.Glob(filepath.Join(h.data, "bin", "*"))
	return slices.ContainsFunc(pilots, func(p string) bool {
		fi, err := os.Stat(p)
		return err == nil && os.SameFile(fi, exe)
	})
}

// ownerOf is whose cgroup a process is in: a Machine's, or that of a sandbox that stands ready. Where it is in none, as one that has just
// begun, it is empty.
func ownerOf(proc string) gondola.MachineID {
	b, _ := os.ReadFile(filepath.Join(proc, "cgroup"))
	for line := range strings.Lines(string(b)) {
		if _, path, ok := strings.Cut(line, ":/gondola/"); ok {
			if parts := strings.Split(strings.TrimSpace(path), "/"); len(parts) > 2 {
				return gondola.MachineID(parts[1])
			}
		}
	}
	return ""
}

// idIn finds the 14 hexadecimal digits of a Machine in a command line.
func idIn(cmdline string) gondola.MachineID {
	for _, word := range strings.FieldsFunc(cmdline, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefghijklmnopqrstuvwxyz", r) }) {
		if len(word) == 14 && strings.Trim(word, "0123456789abcdef") == "" {
			return gondola.MachineID(word)
		}
	}
	return "?"
}
