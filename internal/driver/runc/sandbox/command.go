package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gondola/internal/driver/oci"
)

// command is how runc is called for one container.
type command struct {
	Runc string // the program
	Root string // of its state; holds environments, so in RunDir
	Log  string // file that it tells its errors to
}

// run starts the container of a bundle and returns the pid of its first process, whose parent is then this process's reaper. console is the
// socket over which it hands the terminal of one that has it; if empty, it gives the container the files.
func (c command) run(ctx context.Context, bundle, id string, stdio [3]*os.File, console string) (int, error) {
	args := []string{"run", "--detach", "--bundle=" + bundle}
	if console != "" {
		args = append(args, "--console-socket="+console)
	}
	return c.start(ctx, filepath.Join(bundle, "pid"), stdio, args, id)
}

// execPatience is how long runc may take to start a process in a running container.
const execPatience = 10 * time.Second

// exec starts a process in a running container, and returns its pid as run does. It does not end with ctx: who ended runc half way would have the
// process and nobody to wait for it, so it is for the caller to end that.
func (c command) exec(ctx context.Context, dir, id, process string, stdio [3]*os.File, console string) (int, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execPatience)
	defer cancel()
	args := []string{"exec", "--detach", "--process=" + process}
	if console != "" {
		args = append(args, "--console-socket="+console)
	}
	return c.start(ctx, filepath.Join(dir, "pid"), stdio, args, id)
}

func (c command) start(ctx context.Context, pidFile string, stdio [3]*os.File, args []string, id string) (int, error) {
	os.Remove(c.Log)
	argv := append([]string{"--root=" + c.Root, "--log=" + c.Log, "--log-format=json"}, args...)
	cmd := exec.CommandContext(ctx, c.Runc, append(argv, "--pid-file="+pidFile, id)...)
	// It ends before a collection pays, or a second thread. The container gets none of these.
	cmd.Env = []string{"GOGC=off", "GOMAXPROCS=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Nil files become /dev/null; an interface that holds a nil *os.File would not.
	if stdio[0] != nil {
		cmd.Stdin = stdio[0]
	}
	if stdio[1] != nil {
		cmd.Stdout = stdio[1]
	}
	if stdio[2] != nil {
		cmd.Stderr = stdio[2]
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		// "runc run failed: unable to start container process: exec: \"/bin/x\": …"
		if said := oci.LastError(c.Log, "runc run failed: ", "runc create failed: ", "exec failed: ", "unable to start container process: "); said != "" {
			return 0, errors.New(said)
		}
		return 0, fmt.Errorf("runc: %w", err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, fmt.Errorf("runc: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
