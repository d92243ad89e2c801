package host_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/host"
)

// eaterEnv makes the test's own program an eater: "<cgroup> <MiB of its own> <MiB in a file in memory>".
const eaterEnv = "GONDOLA_TEST_EATS"

func TestMain(m *testing.M) {
	if s := os.Getenv(eaterEnv); s != "" {
		if err := eat(s); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// eat takes memory in a cgroup, says so, and ends with its input.
func eat(s string) error {
	var group string
	var own, file int
	if _, err := fmt.Sscan(s, &group, &own, &file); err != nil {
		return err
	}
	if err := cgroup.Host().Enter(group); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("990"), 0o644); err != nil {
		return err
	}
	mine := make([]byte, own<<20)
	for i := 0; i < len(mine); i += 4096 {
		mine[i] = 1
	}
	fd, err := unix.MemfdCreate("eaten", 0)
	if err != nil {
		return err
	}
	for part := make([]byte, 1<<20); file > 0; file-- {
		if _, err := unix.Write(fd, part); err != nil {
			return err
		}
	}
	fmt.Println("eaten")
	bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Println("still there", len(mine))
	return nil
}

// eater is a process in the cgroup of a Machine.
type eater struct {
	*exec.Cmd
	says *bufio.Reader
	feed func()
}

func startEater(t *testing.T, group string, own, file int) *eater {
	t.Helper()
	e := &eater{Cmd: exec.Command(os.Args[0])}
	e.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", eaterEnv, group, own, file))
	in, err := e.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Process.Kill() })
	e.says, e.feed = bufio.NewReader(out), func() { in.Close() }
	return e
}

// TestGuard_EndsWhoTakesAllMemoryAndNobodyElse: left alone the kernel ends the neighbour, since of what the hog has nothing counts for its process.
func TestGuard_EndsWhoTakesAllMemoryAndNobodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	const instance, hog, neighbour = "guard001", "aaaaaaaaaaaaa1", "aaaaaaaaaaaaa2"
	tree, group := cgroup.Host(), filepath.Join("gondola", instance)
	t.Cleanup(func() {
		if err := tree.Remove(context.Background(), group); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Limit(group, cgroup.Limits{MemoryBytes: 2 << 30, Weight: 10}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{hog, neighbour} {
		if err := tree.Limit(filepath.Join(group, id, "sandbox"), cgroup.Limits{MemoryBytes: 4 << 30, Weight: 10}); err != nil {
			t.Fatal(err)
		}
	}
	h, err := host.Open(host.Config{DataDir: t.TempDir(), Instance: instance, Network: &wires{}, RunRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	g := h.Guard(func() map[gondola.MachineID]int64 {
		return map[gondola.MachineID]int64{hog: 25 << 20, neighbour: 128 << 20}
	})
	go func() { defer close(done); g.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-g.Ready()

	quiet := startEater(t, filepath.Join(group, neighbour, "sandbox"), 100, 0)
	if s, err := quiet.says.ReadString('\n'); s != "eaten\n" {
		t.Fatalf("the neighbour says %q, %v", s, err)
	}
	greedy := startEater(t, filepath.Join(group, hog, "sandbox"), 1, 5000)
	s, _ := greedy.says.ReadString('\n')
	err = greedy.Wait()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("who took all memory says %q and ended with %v, want SIGKILL", s, err)
	}
	quiet.feed()
	if s, err := quiet.says.ReadString('\n'); s == "" {
		t.Errorf("the neighbour is not there any more: %v", err)
	}
	if err := quiet.Wait(); err != nil {
		t.Errorf("the neighbour ended with %v", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for {
		_, limit := tree.Memory(filepath.Join(group, hog))
		if limit == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("the machine is still held at %d bytes, and there is memory", limit)
		}
	}
}
