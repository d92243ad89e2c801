package provider

import (
	"context"
	"fmt"
	"io"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"gondola"
)

// session connects one request of the kubelet API to a Machine. It is the Executor, Attacher and PortForwarder of cri-streaming; what these
// pass to name the Pod is not used, the session knows.
type session struct {
	platform  gondola.Streams
	ref       gondola.Ref
	container string
	options   *remotecommand.Options
}

// ExecInContainer runs the command to its end. An exit code other than 0 is a utilexec.CodeExitError, which kubectl ends with.
func (s *session) ExecInContainer(ctx context.Context, _, _, container string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	opts := gondola.ExecOptions{Container: container, Command: cmd, TTY: tty, Stdin: in != nil}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := s.platform.ExecStream(ctx, s.ref, opts, execIO(ctx, in, out, errw, resize))
	return exit(st, err)
}

// AttachContainer connects to the container until it ends.
func (s *session) AttachContainer(ctx context.Context, _, _, container string, in io.Reader, out, errw io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := s.platform.Attach(ctx, s.ref, container, execIO(ctx, in, out, errw, resize))
	return err
}

// PortForward copies between the stream and a port in the Machine until one side ends.
func (s *session) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	conn, err := s.platform.Dial(ctx, s.ref, int(port))
	if err != nil {
		return fmt.Errorf("connect to port %d of machine %s: %w", port, s.ref.ID, err)
	}
	defer conn.Close()
	inbound := make(chan struct{})
	go func() {
		defer close(inbound)
		_, _ = io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, conn)
	stream.Close()
	conn.Close()
	<-inbound
	return err
}

// execIO leaves out the streams that are not wanted: an interface that holds a nil pointer is not nil.
func execIO(ctx context.Context, in io.Reader, out, errw io.WriteCloser, resize <-chan remotecommand.TerminalSize) gondola.ExecIO {
	var e gondola.ExecIO
	if in != nil {
		e.Stdin = in
	}
	if out != nil {
		e.Stdout = out
	}
	if errw != nil {
		e.Stderr = errw
	}
	if resize != nil {
		sizes := make(chan gondola.TerminalSize)
		go func() {
			defer close(sizes)
			for {
				select {
				case <-ctx.Done():
					return
				case s, ok := <-resize:
					if !ok {
						return
					}
					select {
					case sizes <- gondola.TerminalSize{Width: s.Width, Height: s.Height}:
					case <-ctx.Done():
						return
					}
				}
			}
		}()
		e.Resize = sizes
	}
	return e
}

func exit(st gondola.ExitStatus, err error) error {
	if err != nil {
		return err
	}
	if st.Code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", st.Code), Code: st.Code}
	}
	return nil
}
