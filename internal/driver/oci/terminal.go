package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/pilot"
)

// Terminal is the master side of a pseudo terminal whose other side is in the sandbox.
//
// Where the sandbox's processes are the host's, the kernel does all. A gVisor sandbox's are not: the line discipline works as ever, but has
// nobody to send SIGINT and SIGWINCH to, so Terminal recognises the keys and changes of size itself and tells a function.
type Terminal struct {
	master *os.File
	copies errgroup.Group // ends when all output has been copied
	once   sync.Once
}

// OpenTerminal makes a pseudo terminal and returns it with its other side.
func OpenTerminal() (*Terminal, *os.File, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var n int
	onFD(master, func(fd int) error {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	if err == nil {
		var replica *os.File
		if replica, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err == nil {
			return NewTerminal(master), replica, nil
		}
	}
	master.Close()
	return nil, nil, fmt.Errorf("open a terminal: %w", err)
}

// NewTerminal returns a terminal whose master side is open already.
func NewTerminal(master *os.File) *Terminal {
	return &Terminal{master: master}
}

// onFD calls f with the descriptor of a file, leaving it in the poller (Fd would not).
func onFD(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Connect copies between the terminal and in and out, and signals the foreground process group unless signal is nil, until done closes. Output is
// copied until Drain, or until the terminal is closed.
func (t *Terminal) Connect(in io.Reader, out io.Writer, resize <-chan gondola.TerminalSize, signal func(unix.Signal), done <-chan struct{}) {
	if out == nil || out == io.Writer((*os.File)(nil)) {
		out = io.Discard
	}
	t.copies.Go(func() error { return pilot.CopyOutput(out, t.master) })
	if f, ok := in.(*os.File); ok && f == nil {
		in = nil
	}
	if in != nil {
		go t.input(in, signal)
		if f, ok := in.(*os.File); ok {
			// The file stays its owner's: only the read that waits in it is ended.
			go func() {
				<-done
				f.SetReadDeadline(time.Now())
				f.SetReadDeadline(time.Time{})
			}()
		}
	}
	if resize != nil {
		go func() {
			for {
				select {
				case size, ok := <-resize:
					if !ok {
						return
					}
					t.Resize(size)
					if signal != nil {
						signal(unix.SIGWINCH)
					}
				case <-done:
					return
				}
			}
		}()
	}
}

func (t *Terminal) input(in io.Reader, signal func(unix.Signal)) {
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		for typed := buf[:n]; len(typed) > 0; {
			plain, sig := len(typed), unix.Signal(0)
			if signal != nil {
				plain, sig = t.split(typed)
			}
			if _, err := t.master.Write(typed[:plain]); err != nil {
				return
			}
			if typed = typed[plain:]; sig != 0 {
				t.interrupt(typed[0])
				signal(sig)
				typed = typed[1:]
			}
		}
		if errors.Is(err, io.EOF) {
			// A terminal has no end of file but the key for it.
			t.master.Write([]byte{4})
		}
		if err != nil {
			return
		}
	}
}

// split returns how much of the input comes before the first key that makes a signal, and that signal; 0 if there is none.
func (t *Terminal) split(typed []byte) (int, unix.Signal) {
	state, err := t.termios()
	if err != nil || state.Lflag&unix.ISIG == 0 {
		return len(typed), 0
	}
	for i, b := range typed {
		switch b {
		case 0: // a disabled key
		case state.Cc[unix.VINTR]:
			return i, unix.SIGINT
		case state.Cc[unix.VQUIT]:
			return i, unix.SIGQUIT
		case state.Cc[unix.VSUSP]:
			return i, unix.SIGTSTP
		}
	}
	return len(typed), 0
}

// interrupt does what the line discipline does for a key that makes a signal: the line typed so far is void, and the key is echoed. The
// line discipline itself must not see the key: it works some time later, and would throw away what the signal made a program say.
func (t *Terminal) interrupt(key byte) {
	state, err := t.termios()
	if err != nil {
		return
	}
	peer := -1
	err = onFD(t.master, func(fd int) error {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK)
		if errno != 0 {
			return errno
		}
		peer = int(n)
		return nil
	})
	if err != nil {
		return
	}
	defer unix.Close(peer)
	if state.Lflag&unix.NOFLSH == 0 {
		unix.IoctlSetInt(peer, unix.TCFLSH, unix.TCIFLUSH)
	}
	if state.Lflag&unix.ECHO != 0 && state.Lflag&unix.ECHOCTL != 0 {
		unix.Write(peer, []byte{'^', key ^ 0x40})
	}
}

func (t *Terminal) termios() (state *unix.Termios, err error) {
	err = onFD(t.master, func(fd int) (err error) {
		state, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	return state, err
}

// Resize tells the kernel the size of the window.
func (t *Terminal) Resize(size gondola.TerminalSize) {
	onFD(t.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
}

// Drain delivers the rest of the output; see Pipes.Drain. Somebody who holds the other side open longer than grace loses his output.
func (t *Terminal) Drain(ctx context.Context, grace time.Duration) error {
	t.master.SetReadDeadline(time.Now().Add(grace))
	return awaitOutput(ctx, grace, &t.copies)
}

// Close closes our side, which a process on the other takes for a hang-up.
func (t *Terminal) Close() { t.once.Do(func() { t.master.Close() }) }

// Console is a socket over which a runtime hands the terminal that it made for a container.
type Console struct {
	Path     string // for the runtime's --console-socket
	dir      string
	listener *net.UnixListener
}

// ListenConsole listens at a short name: a socket's path may have 108 bytes only.
func ListenConsole() (*Console, error) {
	short, err := os.MkdirTemp("", "gondola-tty-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(short, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		os.RemoveAll(short)
		return nil, err
	}
	return &Console{Path: path, dir: short, listener: l}, nil
}

// Close ends the listening.
func (c *Console) Close() {
	c.listener.Close()
	os.RemoveAll(c.dir)
}

// Receive waits for the terminal.
func (c *Console) Receive() (*Terminal, error) {
	c.listener.SetDeadline(time.Now().Add(5 * time.Second))
	conn, err := c.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("the runtime handed over no terminal: %w", err)
	}
	defer conn.Close()
	data, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, n, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return nil, fmt.Errorf("the runtime handed over no terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("the runtime handed over no terminal (%d messages): %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("the runtime handed over no terminal (%d files): %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	unix.SetNonblock(fds[0], true)
	return NewTerminal(os.NewFile(uintptr(fds[0]), "terminal")), nil
}
