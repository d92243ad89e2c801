package fake

import (
	"io"
	"os"
	"sync"
)

// pipeRoom is how much a pipe holds before its writer waits, as the kernel's.
const pipeRoom = 64 << 10

// pipe is a stream of a container, in memory. Readers come and go, as pilots do; what nobody has read stays.
type pipe struct {
	mu     sync.Mutex
	wake   sync.Cond
	buf    []byte
	closed bool // no more will be written
}

func newPipe() *pipe {
	p := &pipe{}
	p.wake.L = &p.mu
	return p
}

func (p *pipe) Write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for len(p.buf) >= pipeRoom && !p.closed {
			p.wake.Wait()
		}
		if p.closed {
			return n, io.ErrClosedPipe
		}
		k := min(len(b), pipeRoom-len(p.buf))
		p.buf = append(p.buf, b[:k]...)
		b, n = b[k:], n+k
		p.wake.Broadcast()
	}
	return n, nil
}

// Close ends the stream; what is in it can still be read.
func (p *pipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.wake.Broadcast()
	return nil
}

// Read is the container's way to read its stdin.
func (p *pipe) Read(b []byte) (int, error) { return (&pipeReader{p: p}).Read(b) }

// pipeReader is one reader of a pipe; closing it leaves the pipe to the next one.
type pipeReader struct {
	p      *pipe
	closed bool // guarded by p.mu
}

func (r *pipeReader) Read(b []byte) (int, error) {
	p := r.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 && !p.closed && !r.closed {
		p.wake.Wait()
	}
	switch {
	case r.closed:
		return 0, os.ErrClosed
	case len(p.buf) == 0:
		return 0, io.EOF
	}
	n := copy(b, p.buf)
	p.buf = p.buf[n:]
	if len(p.buf) == 0 {
		p.buf = nil
	}
	p.wake.Broadcast()
	return n, nil
}

func (r *pipeReader) Close() error {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	r.closed = true
	r.p.wake.Broadcast()
	return nil
}
