package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/oci"
)

// Usage returns the memory of each running container; see pilot.Runtime.
func (r *Runtime) Usage(context.Context) (map[string]int64, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, name := range r.started() {
		if u := r.tree.Usage(r.cgroupOf(name)); u.Memory > 0 {
			out[name] = u.WorkingSet
		}
	}
	return out, nil
}

// Stats returns what sandbox and containers use; see pilot.Runtime.
func (r *Runtime) Stats(ctx context.Context) (gondola.MachineStats, error) {
	pause, err := r.booted()
	if err != nil {
		return gondola.MachineStats{}, err
	}
	all := r.tree.Usage(r.cgroup())
	m := gondola.MachineStats{Time: time.Now(), CPU: gondola.CPUStats{UsageNanos: all.CPUNanos}, Memory: oci.Memory(all), Network: oci.Network(pause),
		Processes: all.PIDs, Containers: []gondola.ContainerStats{}}
	for _, name := range r.started() {
		if _, err := r.running(name); err != nil {
			continue
		}
		u := r.tree.Usage(r.cgroupOf(name))
		stats := gondola.ContainerStats{Name: name, CPU: gondola.CPUStats{UsageNanos: u.CPUNanos}, Memory: oci.Memory(u), Processes: u.PIDs}
		layers, _ := filepath.Glob(filepath.Join(r.rootfs(name), "*", "upper")) // the pattern is well formed
		for _, dir := range layers {
			d := r.disk.Measure(ctx, dir)
			stats.Rootfs.Used, stats.Rootfs.Inodes, stats.Rootfs.Partial = stats.Rootfs.Used+d.Used, stats.Rootfs.Inodes+d.Inodes, stats.Rootfs.Partial || d.Partial
		}
		m.Containers = append(m.Containers, stats)
	}
	return m, nil
}

// Processes lists the processes of all containers, as these number them; see pilot.Runtime.
func (r *Runtime) Processes(context.Context) ([]gondola.ProcessStat, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	out := []gondola.ProcessStat{}
	for _, name := range r.started() {
		for _, pid := range r.tree.PIDs(r.cgroupOf(name)) {
			if p, ok := processStat(pid); ok {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// ticks is the unit of times in /proc, which is the same on every Linux that Go runs on.
const ticks = 100

// processStat reads proc_pid_stat(5) and its neighbours; ok is false when the process has ended.
func processStat(pid int) (p gondola.ProcessStat, ok bool) {
	read := func(file string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return ""
		}
		return string(b)
	}
	stat := read("stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return p, false
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i], 10, 64); return n }
	user, system := number(11), number(12)
	p = gondola.ProcessStat{PID: pid, Command: strings.TrimSpace(strings.ReplaceAll(read("cmdline"), "\x00", " ")), STime: system * 1000 / ticks,
		RTime: (user + system) * 1000 / ticks, RSS: number(21) * int64(os.Getpagesize()), ListenSockets: []gondola.ListenSocket{}}
	p.Directory, _ = os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	for line := range strings.Lines(read("status")) {
		if numbers, found := strings.CutPrefix(line, "NSpid:"); found {
			inner := strings.Fields(numbers)
			p.PID, _ = strconv.Atoi(inner[len(inner)-1])
		}
	}
	return p, true
}

// Dial connects to a TCP port of the sandbox, loopback included.
func (r *Runtime) Dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	if port < 1 || port > 65535 {
		return nil, gondola.Errorf(gondola.ErrInvalid, "port %d does not exist", port)
	}
	pause, err := r.booted()
	if err != nil {
		return nil, err
	}
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, which is in the wrong network from here on, ends with this goroutine
		conn, err := dialIn(ctx, fmt.Sprintf("/proc/%d/ns/net", pause), port)
		done <- dialled{conn, err}
	}()
	d := <-done
	if d.err != nil {
		return nil, gondola.Errorf(gondola.ErrUnavailable, "nothing listens on port %d of machine %s (%v)", port, r.spec.Machine, d.err)
	}
	return d.conn.(io.ReadWriteCloser), nil
}

// dialIn connects to a port on loopback in a network namespace, which the calling thread enters.
func dialIn(ctx context.Context, netns string, port int) (net.Conn, error) {
	ns, err := os.Open(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		return conn, nil
	}
	if conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("::1", strconv.Itoa(port))); err == nil {
		return conn, nil
	}
	return nil, err
}
