package pilot

import (
	"context"
	"errors"
	"io"
	"os"

	"gondola"
)

// Runtime runs the containers of one Machine in one sandbox; a driver implements it. Calls for different containers may overlap, calls for
// one container do not. Everything it makes lies in Spec.Dir, Spec.RunDir, Spec.Cgroup or is a mount below these, so that Destroy, or the
// driver's Kill after a crash, can undo it.
type Runtime interface {
	// Boot makes the sandbox: Spec's network namespace, limits and volumes, and a pause process as its root. Where the sandbox of an earlier pilot still runs it
	// takes that over and returns adopted; its containers then run on and Wait works on them. ErrLost says that the next pilot may have more luck,
	// with a network made anew.
	Boot(ctx context.Context, spec Spec) (adopted bool, err error)
	// Gone closes when the sandbox has died by itself (a crash, a kill -9, the kernel's OOM killer). oom says whether memory was the reason.
	Gone() <-chan struct{}
	OOM() bool
	// Destroy ends the sandbox with everything in it and undoes all that Boot and Start made, but for what Spec.KeepsRootfs. Idempotent, also
	// without Boot.
	Destroy(ctx context.Context, spec Spec) error

	// Checkpoint halts all that runs in the sandbox and writes it to dir, which is empty, with the files that its containers have written: all that
	// Restore needs. When that is on disk it calls commit. From then on nothing runs any more, and Destroy is next, which leaves dir and the
	// root file systems; where commit or anything before it fails, the sandbox runs on. Where an earlier pilot died in a Checkpoint it is done
	// anew; if that fails, the sandbox may be ended. Nobody calls anything else meanwhile, and no command of Exec runs.
	Checkpoint(ctx context.Context, dir string, commit func() error) error
	// Restore is Boot from what Checkpoint wrote, for the same Spec: runs are the containers that ran, and run on. It clears what another sandbox
	// left, and calls begin before anything runs; if begin fails nothing does. After another error something may be left for Destroy.
	Restore(ctx context.Context, spec Spec, dir string, runs []Run, begin func() error) error

	// Start makes a root file system over run.Container.Tree, a fresh one unless Spec.KeepsRootfs, and starts the container in the sandbox. The files
	// of run stay the caller's; containers keep using them when the pilot dies (FIFOs opened read-write).
	Start(ctx context.Context, run Run) error
	// Wait blocks until the container of that name has ended, also one that an earlier pilot started, and returns how. It may be called
	// again. If the exit status cannot be known (the sandbox died), Exit.Unknown.
	Wait(ctx context.Context, name string) (Exit, error)
	// Resize changes what the sandbox that Boot made or took over reserves and may use together; zero limits are none.
	Resize(ctx context.Context, size gondola.Size) error
	// Limit changes what a container that runs may use to what c asks for, for its programs to see; called as well when the sandbox's size
	// has changed.
	Limit(ctx context.Context, c Container) error
	// Signal sends a signal to the container's first process, or to all of its processes. A sandbox that has not taken it when ctx ends is
	// given up on with the context's error: it may hang, and then only its end ends the call. So it is with Exec.
	Signal(ctx context.Context, name string, sig gondola.Signal, all bool) error
	// Delete removes an ended container's record and, unless Spec.KeepsRootfs, its root file system, so that Start can use the name again.
	Delete(ctx context.Context, name string) error
	// Exec runs a command in a running container to its end. With ctx's end it is killed.
	Exec(ctx context.Context, name string, e Exec, io gondola.ExecIO) (gondola.ExitStatus, error)
	// Dial connects to a TCP port of the sandbox, loopback included.
	Dial(ctx context.Context, port int) (io.ReadWriteCloser, error)
	// Usage returns the memory each running container uses, in bytes, where the runtime can tell.
	Usage(ctx context.Context) (map[string]int64, error)
	Processes(ctx context.Context) ([]gondola.ProcessStat, error)
	// Stats returns what sandbox and running containers use: Time, CPU (without rates), Memory, Network, Processes, and of containers these
	// and their Rootfs. The rest is the pilot's.
	Stats(ctx context.Context) (gondola.MachineStats, error)
}

// ErrLost is the failure of a Boot whose sandbox died before it was up.
var ErrLost = errors.New("the sandbox has died at its start")

// Run is one run of a container: a container restarted three times has had runs 0 to 3.
type Run struct {
	Container             Container
	Attempt               int
	Args                  []string // expanded
	Env                   []string // final; may hold secrets: only in memory and RunDir
	WorkingDir            string
	Identity              Identity
	Mounts                []Mount
	Files                 []gondola.File // written into the root file system before it starts
	TTY                   bool
	Stdin, Stdout, Stderr *os.File                    // nil: none. With TTY, the runtime copies between its terminal and these; Stderr is nil
	Resize                <-chan gondola.TerminalSize // with TTY
}

// Identity is who a process is.
type Identity struct {
	UID, GID uint32
	Groups   []uint32
}

// Mount is a mount in a container.
type Mount struct {
	Volume   *Volume // set: this volume of the Spec, whose host directory (if it has one) is Source
	Source   string  // on the host
	Path     string  // in the container
	ReadOnly bool
	SubPath  string // below Source; the pilot has checked that it does not leave it
}

// Exec is a command for Runtime.Exec.
type Exec struct {
	Args       []string
	Env        []string
	WorkingDir string
	Identity   Identity
	TTY        bool
}

// Exit is how a container ended.
type Exit struct {
	Code    int // 128 + Signal for a signal
	Signal  int
	OOM     bool // killed for want of memory
	Unknown bool // the sandbox is gone
}
