package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// Files of a monitor, in the container's bundle.
const (
	lockFile   = "lock"         // locked while the monitor lives
	orderFile  = "order.json"   // what it is to do
	selfFile   = "monitor.json" // which process it is
	initFile   = "init.json"    // which process the container's first one is
	exitFile   = "exit.json"    // how the container ended
	resultFD   = 3              // where the monitor says whether the container has been started
	lockFD     = 4
	monitorArg = "runc-monitor"
)

// order is what a monitor is told.
type order struct {
	Command command `json:"command"`
	ID      string  `json:"id"`
	Name    string  `json:"name"` // of the container
	Cgroup  string  `json:"cgroup"`
	TTY     bool    `json:"tty"`
	Stdin   bool    `json:"stdin"` // the monitor's stdin is typed into the terminal
}

// result is what a monitor says of the start.
type result struct {
	Error string `json:"error,omitempty"`
}

// Called says whether this process was started to be a monitor.
func Called() bool { return len(os.Args) == 3 && os.Args[1] == monitorArg }

// Main is the monitor of one container: it starts it, waits for its end and writes that down. It returns the exit code.
func Main() int {
	err := monitor(os.Args[2], os.NewFile(resultFD, "result"))
	if err != nil {
		return 1
	}
	return 0
}

// monitor starts the container whose bundle is in dir and writes down its end. The result file is told about the start, and closed.
func monitor(dir string, told *os.File) (err error) {
	defer func() {
		if told != nil {
			json.NewEncoder(told).Encode(result{Error: fmt.Sprint(err)})
		}
	}()
	var o order
	b, err := os.ReadFile(filepath.Join(dir, orderFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	if err := driver.RecordProcess(filepath.Join(dir, selfFile), os.Getpid(), ""); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	pid, term, err := o.start(dir)
	if err != nil {
		return err
	}
	// One that has ended already has no start time, and so no record; nobody will signal it either.
	driver.RecordProcess(filepath.Join(dir, initFile), pid, "")
	json.NewEncoder(told).Encode(result{})
	told.Close()
	told = nil

	ended := make(chan struct{})
	if term != nil {
		var in io.Reader // nil: nobody types, which to a terminal is no end of file
		if o.Stdin {
			in = os.Stdin
		}
		term.Connect(in, os.Stdout, nil, nil, ended)
	} else if err := letGo(); err != nil { // or a reader would wait for the end of this process too
		return err
	}
	ws := reap(pid)
	close(ended)
	// Others that it left behind in a namespace of processes that is not its own end with it.
	cgroup.Host().Signal(o.Cgroup, unix.SIGKILL)
	if term != nil {
		term.Drain(context.Background(), oci.OutputGrace)
	}
	return writeExit(dir, exitOf(ws, cgroup.Host().OOMKills(o.Cgroup) > 0))
}

// start has runc start the container. The terminal is nil without TTY.
func (o order) start(dir string) (int, *oci.Terminal, error) {
	if !o.TTY {
		pid, err := o.Command.run(context.Background(), dir, o.ID, [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, "")
		return pid, nil, err
	}
	console, err := oci.ListenConsole()
	if err != nil {
		return 0, nil, err
	}
	defer console.Close()
	pid, err := o.Command.run(context.Background(), dir, o.ID, [3]*os.File{}, console.Path)
	if err != nil {
		return 0, nil, err
	}
	term, err := console.Receive()
	return pid, term, err
}

// letGo puts /dev/null in the place of the container's streams.
func letGo() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// reap waits for the end of a child, and takes note of those that it inherits.
func reap(pid int) unix.WaitStatus {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if got == pid || err != nil && !errors.Is(err, unix.EINTR) {
			return ws
		}
	}
}

// exitOf tells how a process ended. Killed processes are the kernel's victims only if it says so.
func exitOf(ws unix.WaitStatus, oomKills bool) pilot.Exit {
	e := oci.ExitOf(ws)
	e.OOM = oomKills && e.Code == 128+int(unix.SIGKILL)
	return e
}

func writeExit(dir string, e pilot.Exit) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, exitFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// startMonitor starts the monitor of a container whose bundle is in dir, and waits until it has started the container.
func startMonitor(ctx context.Context, dir string, o order, stdio [3]*os.File) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, orderFile), b, 0o600); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	// The monitor inherits the lock, which so is let go with its last breath.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("a monitor is there already: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command("/proc/self/exe", monitorArg, dir)
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if stdio[0] != nil {
		cmd.Stdin = stdio[0]
	}
	if stdio[1] != nil {
		cmd.Stdout = stdio[1]
	}
	if stdio[2] != nil {
		cmd.Stderr = stdio[2]
	}
	cmd.ExtraFiles = []*os.File{write, lock} // resultFD, lockFD
	failpoint.Hit("pilot.monitor.ordered")
	err = cmd.Start()
	failpoint.Hit("pilot.monitor.started")
	write.Close()
	if err != nil {
		return fmt.Errorf("start a monitor: %w", err)
	}
	go cmd.Wait() // reaps it, if this process is still there
	stop := context.AfterFunc(ctx, func() { read.SetReadDeadline(time.Now()) })
	defer stop()
	var res result
	if err := json.NewDecoder(read).Decode(&res); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the monitor ended at once: %w", err)
	}
	if res.Error != "" {
		return errors.New(res.Error)
	}
	return nil
}

// endMonitor kills the monitor of a bundle, if one lives, and waits for its end.
func endMonitor(ctx context.Context, dir string) error {
	lock, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		// One that has just been started writes down who it is before it does anything.
		if err := driver.KillRecorded(ctx, filepath.Join(dir, selfFile)); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the monitor of %s does not end: %w", dir, ctx.Err())
		}
	}
	return nil
}

// awaitMonitor waits until the monitor of a bundle has ended, and returns what it wrote down.
func awaitMonitor(dir string) (pilot.Exit, error) {
	var e pilot.Exit
	lock, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return e, err
	}
	defer lock.Close()
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		return e, err
	}
	b, err := os.ReadFile(filepath.Join(dir, exitFile))
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(b, &e)
}
