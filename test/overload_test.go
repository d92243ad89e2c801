package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gondola"
)

// crowd MACHINE LIMIT GROUPLIMIT: looks for three seconds, and ten times at least, how many processes there are in a Machine in which a bomb goes off:
// some, never more than LIMIT, nor more than GROUPLIMIT processes and threads of the host for them.
func (h *host) crowd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: crowd MACHINE LIMIT GROUPLIMIT")
	}
	limit, err := strconv.Atoi(args[1])
	ts.Check(err)
	groupLimit, err := strconv.Atoi(args[2])
	ts.Check(err)
	machine, most, began := h.machine(ts, args[0]), 0, time.Now()
	for looks := 0; looks < 10 || time.Since(began) < 3*time.Second; looks++ {
		inside, err := h.processesIn(ts, machine)
		ts.Check(err)
		outside, err := h.pidsOf(machine)
		ts.Check(err)
		if inside > limit || outside > groupLimit {
			ts.Fatalf("machine %s has %d processes (limit %d), and %d processes and threads on the host (limit %d)", args[0], inside, limit, outside, groupLimit)
		}
		most = max(most, inside)
		ts.Logf("%d processes, %d processes and threads of the host", inside, outside)
		pause(50 * time.Millisecond)
	}
	if most < 4 {
		ts.Fatalf("machine %s has at most %d processes: that is no bomb", args[0], most)
	}
}

// machine is a Machine as `gondola machine list` has it.
func (h *host) machine(ts *testscript.TestScript, id string) gondola.Machine {
	ts.Check(ts.Exec("gondola", "machine", "list", "--json"))
	var machines []gondola.Machine
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &machines))
	for _, m := range machines {
		if string(m.ID) == id {
			return m
		}
	}
	ts.Fatalf("no machine %s", id)
	return gondola.Machine{}
}

// processesIn counts the processes in a Machine as its own kernel sees them: no process is needed in it for that.
func (h *host) processesIn(ts *testscript.TestScript, m gondola.Machine) (int, error) {
	token, err := os.ReadFile(filepath.Join(h.data, "token"))
	if err != nil {
		return 0, err
	}
	err = ts.Exec("hello", "curl", "-s", "-f", "-m", "10", "-H", "Authorization: Bearer "+strings.TrimSpace(string(token)),
		fmt.Sprintf("http://127.0.0.1:4280/v1/apps/%s/machines/%s/ps", m.Ref().App, m.ID))
	if err != nil {
		return 0, fmt.Errorf("processes of machine %s, within 10 s: %w", m.ID, err)
	}
	var all []gondola.ProcessStat
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &all); err != nil {
		return 0, err
	}
	return len(all), nil
}

// pidsOf counts the processes and threads that the host has for a Machine's sandbox.
func (h *host) pidsOf(m gondola.Machine) (int, error) {
	instance, err := os.ReadFile(filepath.Join(h.data, "instance"))
	if err != nil {
		return 0, err
	}
	group := filepath.Join("gondola", strings.TrimSpace(string(instance)), string(m.ID), "sandbox", "pids.current")
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		b, err := os.ReadFile(filepath.Join(root, group))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(string(b)))
	}
	return 0, fmt.Errorf("machine %s has no cgroup %s", m.ID, group)
}
