package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOverload_LimitsHoldAndNeighboursAnswer puts a fork bomb, memory hogs with and without a limit, a flood of logs, containers that end at once
// and more Pods than fit on a host of little memory, all at once.
func TestOverload_LimitsHoldAndNeighboursAnswer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and sandboxes")
	}
	h := newHost(t, "gdover")
	config := filepath.Join(t.TempDir(), "config.yaml")
	content := fmt.Sprintf("limits: {processes: 200, logMB: 1}\nreserve: {memoryMB: %d}\n", totalMB(t)-1600)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start(t, "--config", config)
	c := &crowd{t, h}
	c.pod("neighbour", nil, "cpu: 100m, memory: 64Mi", "")
	c.until("neighbour", time.Minute, `{.status.phase}`, "Running")

	grow := "x=0123456789abcdef; while true; do x=$x$x; done"
	c.pod("bomb", sh("echo 'while true; do sh /tmp/bomb & done' > /tmp/bomb; sh /tmp/bomb"), "cpu: 10m, memory: 64Mi", "memory: 512Mi, cpu: 300m")
	c.pod("hog", sh(grow), "cpu: 10m, memory: 64Mi", "memory: 128Mi")
	c.pod("flood", sh("seq 1 20000 > /tmp/lines; while true; do cat /tmp/lines; done"), "cpu: 10m, memory: 64Mi", "")
	c.until("hog", time.Minute, `{.status.containerStatuses[0].state.terminated.reason}`, "OOMKilled")
	c.pod("greedy", sh(grow), "cpu: 10m, memory: 64Mi", "")
	c.until("greedy", time.Minute, `{.status.phase}`, "Failed")
	if got := c.ask("greedy", `{.status.containerStatuses[0].state.terminated.reason}{.status.reason}`); !strings.Contains(got, "OOMKilled") && !strings.Contains(got, "Evicted") {
		t.Errorf("the hog without a limit ended as %q", got)
	}
	for name, most := range map[string]int{"bomb": 4*200 + 1024} {
		if n := c.processes(name); n > most || n < 10 {
			t.Errorf("%s has %d processes on the host; want some, and at most %d", name, n, most)
		}
	}
	if out := c.kubectl("logs", "flood", "--tail=3"); len(strings.Fields(out)) != 3 {
		t.Errorf("logs --tail=3 of the flood: %q", out)
	}
	if size := c.logSize("flood"); size == 0 || size > 4<<20 {
		t.Errorf("log files of the flood take %d bytes; want some, and at most three files of 1 MiB and what a rotation is late", size)
	}
	c.neighbourAnswers()
	c.kubectl("delete", "pod", "bomb", "hog", "flood", "greedy", "--grace-period=1")

	c.backOffGrows()
	c.noneIsLost(40)
	c.neighbourAnswers()
}

// crowd is what the test asks of a host.
type crowd struct {
	*testing.T
	h *host
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func totalMB(t *testing.T) int {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	var kb int
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kb); err != nil {
		t.Fatal(err)
	}
	return kb >> 10
}

func (c *crowd) kubectl(args ...string) string {
	c.Helper()
	cmd := c.h.command(append([]string{"kubectl"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		c.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// manifest describes a Pod of the demo image; what is empty is left out.
func manifest(name string, command []string, requests, limits string) string {
	args, _ := json.Marshal(command)
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {set: %s}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n"+
		"  containers:\n  - {name: main, image: gondola.local/hello, command: %s, resources: {requests: {%s}, limits: {%s}}}\n---\n",
		name, strings.TrimRight(name, "-0123456789"), args, requests, limits)
}

func (c *crowd) pod(name string, command []string, requests, limits string) {
	c.Helper()
	c.apply(manifest(name, command, requests, limits))
}

func (c *crowd) apply(yaml string) {
	c.Helper()
	file := filepath.Join(c.TempDir(), "apply.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		c.Fatal(err)
	}
	c.kubectl("apply", "-f", file)
}

func (c *crowd) ask(pod, path string) string {
	c.Helper()
	return c.kubectl("get", "pod", pod, "-o", "jsonpath="+path)
}

func (c *crowd) until(pod string, patience time.Duration, path, want string) {
	c.Helper()
	c.eventually(patience, func() (string, bool) {
		got := c.ask(pod, path)
		return fmt.Sprintf("%s of %s is %q, want %q", path, pod, got, want), got == want
	})
}

func (c *crowd) eventually(patience time.Duration, reached func() (string, bool)) {
	c.Helper()
	for deadline := time.Now().Add(patience); ; pause(200 * time.Millisecond) {
		state, ok := reached()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("after %s: %s", patience, state)
		}
	}
}

// machine is the id of a Pod's Machine.
func (c *crowd) machine(pod string) string {
	c.Helper()
	out, err := c.h.command("machine", "list", "--json").Output()
	if err != nil {
		c.Fatal(err)
	}
	var machines []struct{ ID, Name string }
	if err := json.Unmarshal(out, &machines); err != nil {
		c.Fatal(err)
	}
	uid := c.ask(pod, "{.metadata.uid}")
	for _, m := range machines {
		if m.Name == "pod-"+uid {
			return m.ID
		}
	}
	c.Fatalf("no Machine of Pod %s", pod)
	return ""
}

// processes is how many processes and threads a Pod's sandbox has on the host.
func (c *crowd) processes(pod string) (n int) {
	c.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/gondola/*/%s/sandbox/pids.current", "/sys/fs/cgroup/pids/gondola/*/%s/sandbox/pids.current"} {
		files, _ := filepath.Glob(fmt.Sprintf(pattern, c.machine(pod)))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			fmt.Sscan(string(b), &n)
		}
	}
	return n
}

// logSize is what the log files of a Pod take.
func (c *crowd) logSize(pod string) (sum int64) {
	c.Helper()
	files, _ := filepath.Glob(filepath.Join(c.h.data, "machines", c.machine(pod), "logs", "main", "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

func (c *crowd) neighbourAnswers() {
	c.Helper()
	if got := c.ask("neighbour", "{.status.containerStatuses[0].restartCount}"); got != "0" {
		c.Errorf("the neighbour was restarted %s times", got)
	}
	if got := c.kubectl("exec", "neighbour", "--", "curl", "-s", "-w", "%{http_code}", "-o", "/dev/null", "http://127.0.0.1:8080/healthz"); got != "200" {
		c.Errorf("the neighbour answers %q", got)
	}
}

// backOffGrows runs containers that end at once until they wait longer than the first time.
func (c *crowd) backOffGrows() {
	c.Helper()
	yaml := ""
	for i := range 3 {
		yaml += strings.Replace(manifest(fmt.Sprintf("crash-%d", i), []string{"false"}, "cpu: 5m, memory: 32Mi", ""), "Never", "Always", 1)
	}
	c.apply(yaml)
	c.eventually(time.Minute, func() (string, bool) {
		got := c.kubectl("get", "pods", "-l", "set=crash", "-o", "jsonpath={.items[*].status.containerStatuses[0].state.waiting.message}")
		return "the crashing Pods say: " + got, strings.Count(got, "back-off 20s") == 3
	})
	if got := c.kubectl("get", "pods", "-l", "set=crash", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"); got != "2 2 2" {
		c.Errorf("restarts until the second wait = %s, want 2 each", got)
	}
	c.kubectl("delete", "pods", "-l", "set=crash", "--grace-period=1")
}

// noneIsLost makes more Pods than fit: each runs or waits in the market's words, and all can be deleted.
func (c *crowd) noneIsLost(count int) {
	c.Helper()
	yaml := ""
	for i := range count {
		yaml += manifest(fmt.Sprintf("many-%d", i), nil, "cpu: 5m, memory: 128Mi", "")
	}
	c.apply(yaml)
	c.eventually(time.Minute, func() (string, bool) {
		running := c.kubectl("get", "pods", "-l", "set=many", "--field-selector=status.phase=Running", "-o", "name")
		waiting := c.kubectl("get", "pods", "-l", "set=many", "--field-selector=status.phase=Pending", "-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="PodScheduled")].message}{"\n"}{end}`)
		n, refused := strings.Count(running, "\n"), 0
		for line := range strings.Lines(waiting) {
			if strings.Contains(line, "free") {
				refused++
			}
		}
		return fmt.Sprintf("%d run and %d of %d are refused in the market's words: %s", n, refused, count, waiting), n > 4 && refused > 4 && n+refused == count
	})
	c.kubectl("delete", "pods", "-l", "set=many", "--grace-period=0", "--force")
	c.eventually(time.Minute, func() (string, bool) {
		out, err := c.h.command("machine", "list", "--json").Output()
		return fmt.Sprintf("Machines that are left: %s (%v)", out, err), err == nil && strings.Count(string(out), `"id"`) == 1
	})
}
