package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

const (
	pilotRecord = "pilot.json" // in Spec.Dir: the pilot's process and binary
	pilotLog    = "pilot.log"  // beside it: what it says
	// SandboxRecord is the file in Spec.RunDir that says which process the sandbox is. A pilot's Runtime writes it.
	SandboxRecord = "sandbox.json"
	// PilotCgroup is where a Machine's pilot is, below Spec.Cgroup.
	PilotCgroup = "pilot"
)

// Pilots starts pilots as processes of this host, finds them again and ends them: the part of a Driver that does not depend on the isolation.
// A pilot is in a session and a cgroup of its own, so neither the end of the daemon nor a signal to its process group reaches it. Everything
// that a Machine has on the host is found by its directories, its cgroup and the process records in them.
type Pilots struct {
	Path string   // the gondola-pilot binary. It must stay where it is as long as a Machine uses it: name it by its digest
	Args []string // options of "gondola-pilot run"
	// StartTimeout is how long a pilot may take until it answers. If zero, 10 s.
	StartTimeout time.Duration
	Log          *slog.Logger // If nil, none.
	Warm         *Warm        // what stands ready; if nil, nothing does
}

// Launch makes sure that a pilot runs for spec; see Driver.
func (d *Pilots) Launch(ctx context.Context, spec pilot.Spec, payload *gondola.Payload) (api pilot.API, err error) {
	if api, err := d.Adopt(ctx, spec); err == nil && !final(ctx, api) {
		return api, nil
	}
	launched := d.Warm.launching(spec)
	defer func() { launched(api) }()
	// One that does not answer, or only says its last words, must not run beside the new one.
	if err := KillRecorded(ctx, filepath.Join(spec.Dir, pilotRecord)); err != nil {
		return nil, err
	}
	if err := prepare(spec, payload); err != nil {
		return nil, fmt.Errorf("launch machine %s: %w", spec.Machine, err)
	}
	failpoint.Hit("driver.launch.written")
	if err := d.start(ctx, spec); err != nil {
		return nil, fmt.Errorf("launch machine %s: %w", spec.Machine, err)
	}
	return pilot.NewClient(spec.Socket), nil
}

func (d *Pilots) log() *slog.Logger {
	if d.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Log
}

// final says whether a pilot has nothing left to do.
func final(ctx context.Context, api pilot.API) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	statuses, err := api.Watch(ctx)
	if err != nil {
		return true // it has just gone
	}
	s, ok := <-statuses
	return !ok || s.Phase.Final()
}

// prepare writes what a pilot reads at its start.
func prepare(spec pilot.Spec, payload *gondola.Payload) error {
	for _, dir := range []string{spec.Dir, spec.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(spec.Socket), 0o711); err != nil {
		return err
	}
	if err := pilot.WriteSpec(spec); err != nil {
		return err
	}
	if payload != nil {
		if err := pilot.WritePayload(spec.RunDir, *payload); err != nil {
			return err
		}
	}
	if spec.Cgroup == "" {
		return nil
	}
	tree := cgroup.Host()
	// Pilot and sandbox together weigh what the Machine asked for; between the two CPU is shared evenly, so neither can shut the other out.
	if err := tree.Weigh(spec.Cgroup, spec.Requests.CPUMillis); err != nil {
		return err
	}
	// Beside the sandbox, whose limits are not the pilot's. A pilot enters it by itself, so that none of its children is ever outside.
	return tree.Make(filepath.Join(spec.Cgroup, PilotCgroup))
}

// command is a call of the pilot's binary.
func (d *Pilots) command(verb, dir string) *exec.Cmd {
	cmd := exec.Command(d.Path, slices.Concat([]string{verb}, d.Args, []string{dir})...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if point, ok := os.LookupEnv(failpoint.Variable); ok {
		cmd.Env = append(cmd.Env, failpoint.Variable+"="+point)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// start starts a pilot, or tells one that stands ready, and waits until it answers.
func (d *Pilots) start(ctx context.Context, spec pilot.Spec) error {
	p, err := d.tell(ctx, spec)
	if err != nil {
		d.log().Info("a pilot that stood ready is of no use", "machine", spec.Machine, "err", err)
	}
	logPath := filepath.Join(spec.Dir, pilotLog)
	if p == nil {
		log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
		p = &started{}
		cmd := d.command("run", spec.Dir)
		cmd.Stdout, cmd.Stderr = log, log
		if err := p.start(cmd); err != nil {
			return err
		}
		failpoint.Hit("driver.launch.begun")
		if err := RecordProcess(filepath.Join(spec.Dir, pilotRecord), cmd.Process.Pid, d.Path); err != nil {
			d.log().Info("a pilot ended at once", "machine", spec.Machine, "err", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.StartTimeout, 10*time.Second))
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(ctx, spec.Socket) {
			return nil
		}
		select {
		case <-p.ended:
			if p.cmd.ProcessState.ExitCode() < 0 { // by a signal, which is nobody's fault in here
				return fmt.Errorf("%w: %v", pilot.ErrGone, p.err)
			}
			return gondola.Errorf(gondola.ErrUnavailable, "the pilot ended at once (%v): %s", p.err, tail(logPath))
		case <-ctx.Done():
			p.cmd.Process.Kill()
			return gondola.Errorf(gondola.ErrUnavailable, "the pilot does not answer on %s: %s", spec.Socket, tail(logPath))
		case <-tick.C:
		}
	}
}

// tell makes a pilot that stands ready that of a Machine; nil if there is none, or if the Machine needs none: its sandbox lives, or will be made
// from a snapshot.
func (d *Pilots) tell(ctx context.Context, spec pilot.Spec) (*started, error) {
	if d.Warm == nil || pilot.HasSnapshot(spec.Dir) {
		return nil, nil
	}
	if alive, err := d.Alive(ctx, spec); alive || err != nil {
		return nil, err
	}
	p := d.Warm.take(spec)
	if p == nil {
		return nil, nil
	}
	defer p.tell.Close()
	// First the record: one that is not told yet ends with this process, and then nobody is where the record points.
	err := RecordProcess(filepath.Join(spec.Dir, pilotRecord), p.cmd.Process.Pid, d.Path)
	if err == nil {
		failpoint.Hit("driver.warm.recorded")
		_, err = p.tell.WriteString(spec.Dir + "\n")
	}
	if err != nil {
		d.Warm.end(context.WithoutCancel(ctx), p)
		return nil, err
	}
	failpoint.Hit("driver.warm.told")
	return p, nil
}

// tail returns the last line of a log, for an error message.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// answers says whether a pilot listens on a socket.
func answers(ctx context.Context, socket string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Adopt returns the API of the pilot that runs for spec, or pilot.ErrGone.
func (d *Pilots) Adopt(ctx context.Context, spec pilot.Spec) (pilot.API, error) {
	if !answers(ctx, spec.Socket) {
		return nil, pilot.ErrGone
	}
	return pilot.NewClient(spec.Socket), nil
}

// Alive says whether the Machine's sandbox runs.
func (d *Pilots) Alive(_ context.Context, spec pilot.Spec) (bool, error) {
	p, err := ReadProcess(filepath.Join(spec.RunDir, SandboxRecord))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("machine %s: %w", spec.Machine, err)
	}
	return p.Alive(), nil
}

// ClearSandbox removes what a sandbox that has ended leaves: root file systems, bundles, state of the runtime and volumes in memory. The root
// file systems that ClearRootfs leaves are only unmounted.
func ClearSandbox(spec pilot.Spec) error {
	errs := []error{UnmountBelow(Rootfs(&spec, "")), ClearRootfs(&spec)}
	for _, name := range []string{"runsc", "runc", "bundles", "volumes"} {
		dir := filepath.Join(spec.RunDir, name)
		errs = append(errs, UnmountBelow(dir), os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// Kill ends pilot and sandbox and undoes what they made; see Driver.
func (d *Pilots) Kill(ctx context.Context, spec pilot.Spec) error {
	errs := []error{
		KillRecorded(ctx, filepath.Join(spec.Dir, pilotRecord)), // first, or it would make another sandbox
		KillRecorded(ctx, filepath.Join(spec.RunDir, SandboxRecord)),
	}
	failpoint.Hit("driver.kill.ended")
	if spec.Cgroup != "" {
		errs = append(errs, cgroup.Host().Remove(ctx, spec.Cgroup))
	}
	errs = append(errs, ClearSandbox(spec))
	failpoint.Hit("driver.kill.removed")
	record, sandbox := filepath.Join(spec.Dir, pilotRecord), filepath.Join(spec.RunDir, SandboxRecord)
	for _, file := range []string{spec.Socket, record, record + ".new", sandbox, sandbox + ".new"} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kill machine %s: %w", spec.Machine, err)
	}
	return nil
}
