package pilot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/stream"
)

// lastWordsTime is how long a pilot whose Machine has ended waits for its clients to read the outcome.
const lastWordsTime = 3 * time.Second

// Serve is the main loop of a pilot process: it supervises spec with rt and serves API over HTTP/1.1 on the unix socket spec.Socket, until a
// final Phase (nil) or the end of ctx, with which it leaves the containers running. Only one pilot can serve a spec.Dir at a time: another
// one gets gondola.ErrConflict.
func Serve(ctx context.Context, spec Spec, rt Runtime, log *slog.Logger) error {
	unlock, err := lockDir(ctx, spec.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	failpoint.Hit("pilot.serve.locked")
	if err := os.Remove(spec.Socket); err != nil && !errors.Is(err, os.ErrNotExist) { // of a pilot that was killed
		return fmt.Errorf("serve machine %s: %w", spec.Machine, err)
	}
	listener, err := net.Listen("unix", spec.Socket)
	if err != nil {
		return fmt.Errorf("serve machine %s: %w", spec.Machine, err)
	}
	defer listener.Close()
	if err := os.Chmod(spec.Socket, 0o600); err != nil {
		return fmt.Errorf("serve machine %s: %w", spec.Machine, err)
	}
	failpoint.Hit("pilot.serve.listening")
	// Who has seen a final Phase must not reach this pilot any more when asking for the next one.
	sup := NewSupervisor(SupervisorConfig{Spec: spec, Runtime: rt, Log: log, Final: func() { listener.Close() }})
	h := &handler{api: sup}
	base, cancel := context.WithCancel(context.Background())
	defer cancel()
	server := &http.Server{Handler: h.routes(), BaseContext: func(net.Listener) context.Context { return base }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err = sup.Run(ctx)
	if ctx.Err() != nil {
		cancel()
	}
	listener.Close()
	unlock() // the next pilot need not wait for the last words of this one
	bye, done := context.WithTimeout(context.Background(), lastWordsTime)
	defer done()
	server.Shutdown(bye) // waits for those that watch
	h.wait(bye)
	cancel()
	server.Close()
	<-served
	return err
}

// lockPatience is how long a pilot waits for the one before it to end.
const lockPatience = 5 * time.Second

// lockDir makes sure that this process is the only pilot in dir. unlock may be called again.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return func() { f.Close() }, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Close()
			return nil, gondola.Errorf(gondola.ErrConflict, "another pilot runs in %s: %w", dir, err)
		}
	}
}

// handler serves an API. Paths are only ever added to.
type handler struct {
	api     API
	streams sync.WaitGroup // exec, attach and dial, which http.Server.Shutdown does not know of
}

func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/watch", h.watch)
	mux.HandleFunc("POST /v1/stop", h.stop)
	mux.HandleFunc("POST /v1/suspend", h.suspend)
	mux.HandleFunc("POST /v1/signal", h.signal)
	mux.HandleFunc("PUT /v1/payload", h.payload)
	mux.HandleFunc("POST /v1/containers", h.addContainer)
	mux.HandleFunc("PUT /v1/size", h.resize)
	mux.HandleFunc("GET /v1/processes", h.processes)
	mux.HandleFunc("GET /v1/stats", h.stats)
	mux.HandleFunc("GET /v1/exec", h.exec)
	mux.HandleFunc("GET /v1/attach", h.attach)
	mux.HandleFunc("GET /v1/dial", h.dial)
	return mux
}

// wait waits for the streams to end.
func (h *handler) wait(ctx context.Context) {
	done := make(chan struct{})
	go func() { h.streams.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (h *handler) watch(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	statuses, err := h.api.Watch(ctx)
	if err != nil {
		answerError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	for s := range statuses {
		if out.Encode(s) != nil || flush.Flush() != nil {
			return
		}
	}
}

func (h *handler) stop(w http.ResponseWriter, r *http.Request) {
	var req gondola.StopRequest
	if readBody(w, r, &req) {
		answer(w, nil, h.api.Stop(r.Context(), req))
	}
}

func (h *handler) suspend(w http.ResponseWriter, r *http.Request) {
	answer(w, nil, h.api.Suspend(r.Context()))
}

// signalRequest is the body of a signal.
type signalRequest struct {
	Container string         `json:"container,omitempty"`
	Signal    gondola.Signal `json:"signal"`
}

func (h *handler) signal(w http.ResponseWriter, r *http.Request) {
	var req signalRequest
	if readBody(w, r, &req) {
		answer(w, nil, h.api.Signal(r.Context(), req.Container, req.Signal))
	}
}

func (h *handler) payload(w http.ResponseWriter, r *http.Request) {
	var p gondola.Payload
	if readBody(w, r, &p) {
		answer(w, nil, h.api.PutPayload(r.Context(), p))
	}
}

func (h *handler) addContainer(w http.ResponseWriter, r *http.Request) {
	var c Container
	if readBody(w, r, &c) {
		answer(w, nil, h.api.AddContainer(r.Context(), c))
	}
}

func (h *handler) resize(w http.ResponseWriter, r *http.Request) {
	var size Size
	if readBody(w, r, &size) {
		answer(w, nil, h.api.Resize(r.Context(), size))
	}
}

func (h *handler) processes(w http.ResponseWriter, r *http.Request) {
	ps, err := h.api.Processes(r.Context())
	answer(w, ps, err)
}

func (h *handler) exec(w http.ResponseWriter, r *http.Request) {
	h.streams.Add(1)
	defer h.streams.Done()
	var opts gondola.ExecOptions
	if err := json.Unmarshal([]byte(r.URL.Query().Get("options")), &opts); err != nil {
		answerError(w, gondola.Errorf(gondola.ErrInvalid, "exec: options: %w", err))
		return
	}
	stream.ServeExec(w, r, func(ctx context.Context, streams gondola.ExecIO) (gondola.ExitStatus, error) {
		return h.api.Exec(ctx, opts, streams)
	})
}

func (h *handler) attach(w http.ResponseWriter, r *http.Request) {
	h.streams.Add(1)
	defer h.streams.Done()
	container := r.URL.Query().Get("container")
	stream.ServeExec(w, r, func(ctx context.Context, streams gondola.ExecIO) (gondola.ExitStatus, error) {
		return h.api.Attach(ctx, container, streams)
	})
}

func (h *handler) dial(w http.ResponseWriter, r *http.Request) {
	h.streams.Add(1)
	defer h.streams.Done()
	port, err := strconv.Atoi(r.URL.Query().Get("port"))
	if err != nil {
		answerError(w, gondola.Errorf(gondola.ErrInvalid, "dial: port: %w", err))
		return
	}
	stream.ServeConn(w, r, func(ctx context.Context) (io.ReadWriteCloser, error) { return h.api.Dial(ctx, port) })
}

// maxBody is the largest request: a payload, whose files Kubernetes limits to 1 MiB each.
const maxBody = 64 << 20

// readBody reads a request's JSON; where it cannot, it has answered.
func readBody(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into); err != nil {
		answerError(w, gondola.Errorf(gondola.ErrInvalid, "request body: not the JSON expected")) // without the text, which may be secret
		return false
	}
	return true
}

func answer(w http.ResponseWriter, result any, err error) {
	if err != nil {
		answerError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if result == nil {
		result = struct{}{}
	}
	json.NewEncoder(w).Encode(result)
}

// wireError is an error of the API on the wire.
type wireError struct {
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
}

// wireKinds are the kinds that cross the socket.
func wireKinds() []error {
	return []error{gondola.ErrInvalid, gondola.ErrNotFound, gondola.ErrPrecondition, gondola.ErrConflict, gondola.ErrDeadline,
		gondola.ErrUnsupported, gondola.ErrUnavailable, ErrGone}
}

func answerError(w http.ResponseWriter, err error) {
	e := wireError{Message: err.Error()}
	if i := slices.IndexFunc(wireKinds(), func(k error) bool { return errors.Is(err, k) }); i >= 0 {
		e.Kind = wireKinds()[i].Error()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusConflict)
	json.NewEncoder(w).Encode(e)
}
