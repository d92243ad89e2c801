package pilot

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// outputHeld is the most that a pipe or a terminal of the kernel's holds: beyond it, what is read was written later.
const outputHeld = 1 << 20

// CopyOutput copies the output of a container or a command to w until its end. A read deadline of from, which then is a file, ends the waiting for
// more and not the delivery: what was written before it is copied, however slow w is. The error is w's.
func CopyOutput(w io.Writer, from io.Reader) error {
	buf := make([]byte, 8<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return copyHeld(w, from.(*os.File), buf)
		}
		if err != nil {
			return nil
		}
		if n == len(buf) && n < 64<<10 {
			buf = make([]byte, 2*n)
		}
	}
}

// copyHeld copies what is in a file whose writer has ended. Its other end may still be open (ours, or that of somebody left behind, who may go on
// writing), so there is no end of file to wait for.
func copyHeld(w io.Writer, f *os.File, buf []byte) error {
	if f.SetReadDeadline(time.Time{}) != nil {
		return nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil
	}
	for held := outputHeld; held > 0; {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buf)
			return true
		})
		if err != nil || n <= 0 {
			return nil
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		held -= n
	}
	return nil
}
