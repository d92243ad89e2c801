package pilot

import (
	"context"
	"errors"
	"io"

	"gondola"
)

// API is what a worker asks of a pilot. Supervisor implements it in place, Client over the pilot's socket. Methods with a container name take
// the empty name for the first container that is not an init container; an unknown one is gondola.ErrNotFound, one that does not run
// gondola.ErrPrecondition.
type API interface {
	// Watch sends the Status now and after every change, dropping intermediate ones when the reader is slow. The channel closes after a
	// Status with a final Phase, when ctx ends, or when the pilot is gone: the last Status received tells which.
	Watch(ctx context.Context) (<-chan Status, error)
	// Stop ends the Machine: no more restarts, every container gets its stop signal (or req's) in reverse order of dependency, and SIGKILL
	// after the timeout (its own, or req's). It returns at once; Phase goes to Ending, then Ended.
	Stop(ctx context.Context, req gondola.StopRequest) error
	// Suspend writes the Machine to disk and ends its sandbox: Phase goes to Suspending, then Suspended, and the pilot exits. It returns when that
	// is done; where it cannot be, the Machine runs on, and the error says why. Again is harmless. ErrPrecondition while the Machine does not run,
	// or has what cannot be written.
	Suspend(ctx context.Context) error
	Signal(ctx context.Context, container string, sig gondola.Signal) error
	Exec(ctx context.Context, opts gondola.ExecOptions, io gondola.ExecIO) (gondola.ExitStatus, error)
	Attach(ctx context.Context, container string, io gondola.ExecIO) (gondola.ExitStatus, error)
	Dial(ctx context.Context, port int) (io.ReadWriteCloser, error)
	// PutPayload swaps the files of the payload volumes atomically; variables count from the next start of a container.
	PutPayload(ctx context.Context, p gondola.Payload) error
	// AddContainer starts an ephemeral container, once. One of that name that is there is left alone; ErrPrecondition while the Machine does
	// not run.
	AddContainer(ctx context.Context, c Container) error
	// Resize changes what sandbox and containers may use: in place, or with a restart of those containers that want one. It returns when all
	// is in effect but these restarts. ErrPrecondition while the Machine does not run, and for a limit of memory below what is used. Again is
	// harmless; Status tells the sizes in effect.
	Resize(ctx context.Context, size Size) error
	Processes(ctx context.Context) ([]gondola.ProcessStat, error)
	// Stats tells what the Machine and its running containers use; Ref, Metadata and rates are left to the worker.
	Stats(ctx context.Context) (gondola.MachineStats, error)
}

// ErrGone is returned by a Client when no pilot answers on its socket.
var ErrGone = errors.New("pilot is gone")
