package runsc

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"

	"gondola"
)

// alive returns the runs that have not ended, by container.
func (r *Runtime) alive() map[string]*process {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := maps.Clone(r.runs)
	maps.DeleteFunc(out, func(_ string, p *process) bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	return out
}

// Usage returns the memory of each running container; see pilot.Runtime.
func (r *Runtime) Usage(context.Context) (map[string]int64, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for name, p := range r.alive() {
		used, err := readGuest(p.c.Sandbox, p.c.ID)
		if err != nil {
			continue // it has ended just now
		}
		out[name] = used.memory
	}
	return out, nil
}

// Processes lists the processes of all containers; see pilot.Runtime.
func (r *Runtime) Processes(context.Context) ([]gondola.ProcessStat, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	out := []gondola.ProcessStat{}
	alive := r.alive()
	for _, name := range slices.Sorted(maps.Keys(alive)) {
		p := alive[name]
		list, err := p.c.Sandbox.Processes(p.c.ID)
		if err != nil {
			continue // it has ended just now
		}
		for _, proc := range list {
			used, _ := time.ParseDuration(proc.Time)
			out = append(out, gondola.ProcessStat{
				PID: int(proc.PID), Command: proc.Cmd, CPU: int64(proc.C), RTime: used.Milliseconds(),
				ListenSockets: []gondola.ListenSocket{},
			})
		}
	}
	return out, nil
}

// Dial connects to a TCP port of the sandbox, loopback included: the sandbox itself connects, and copies to a socket that we give it.
func (r *Runtime) Dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	if port < 1 || port > 65535 {
		return nil, gondola.Errorf(gondola.ErrInvalid, "port %d does not exist", port)
	}
	sandbox, err := r.booted()
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "theirs"), os.NewFile(uintptr(fds[1]), "ours")
	defer theirs.Close()
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	opts := &boot.PortForwardOpts{Port: uint16(port), ContainerID: sandbox.ID, FilePayload: urpc.FilePayload{Files: []*os.File{theirs}}}
	if err := sandbox.Sandbox.PortForward(opts); err != nil {
		conn.Close()
		return nil, gondola.Errorf(gondola.ErrUnavailable, "nothing listens on port %d of machine %s (%v)", port, r.spec.Machine, err)
	}
	return conn.(io.ReadWriteCloser), nil
}
