package oci

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"gondola"
	"gondola/internal/pilot"
)

// OutputGrace is how long output is awaited after a command's end from processes that it left behind.
const OutputGrace = time.Second

// Pipes are the streams of a command without a terminal.
type Pipes struct {
	FDs    map[int]*os.File // as the command has them
	theirs []*os.File       // the command's ends
	ours   []*os.File
	stdin  *os.File // of ours; nil without input
	output map[*os.File]io.Writer
	copies errgroup.Group // ends when all output has been copied
}

// OpenPipes makes a pipe for every stream there is, and /dev/null for the others.
func OpenPipes(streams gondola.ExecIO) (p *Pipes, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	p = &Pipes{FDs: map[int]*os.File{0: null, 1: null, 2: null}, theirs: []*os.File{null}, output: map[*os.File]io.Writer{}}
	defer func() {
		if err != nil {
			closeAll(p.theirs)
			closeAll(p.ours)
		}
	}()
	if streams.Stdin != nil {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.FDs[0], p.stdin, p.theirs, p.ours = read, write, append(p.theirs, read), append(p.ours, write)
	}
	for fd, w := range []io.Writer{1: streams.Stdout, 2: streams.Stderr} {
		if w == nil {
			continue
		}
		if fd == 2 && same(w, streams.Stdout) { // two copies at once would mix in it
			p.FDs[2] = p.FDs[1]
			continue
		}
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.FDs[fd], p.theirs, p.ours = write, append(p.theirs, write), append(p.ours, read)
		p.output[read] = w
	}
	return p, nil
}

// Copy copies in the background, until Drain.
func (p *Pipes) Copy(streams gondola.ExecIO) {
	if p.stdin != nil {
		go func() { // ends with the input, or with the first write after the command's end
			io.Copy(p.stdin, streams.Stdin)
			p.stdin.Close()
		}()
	}
	for from, to := range p.output {
		p.copies.Go(func() error { return pilot.CopyOutput(to, from) })
	}
}

// Drain delivers the rest of the output after the command's end, and closes the pipes. It awaits what processes that the command left behind write
// for so long as grace; the error tells what could not be delivered.
func (p *Pipes) Drain(ctx context.Context, grace time.Duration) error {
	defer closeAll(p.ours)
	for from := range p.output {
		from.SetReadDeadline(time.Now().Add(grace))
	}
	return awaitOutput(ctx, grace, &p.copies)
}

// awaitOutput waits until output has been delivered, which takes as long as its reader does. Once ctx has ended, nobody cares for more than what
// comes within the grace.
func awaitOutput(ctx context.Context, grace time.Duration, copies *errgroup.Group) error {
	copied := make(chan error, 1)
	go func() { copied <- copies.Wait() }()
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-copied:
		return err
	case <-timer.C:
		return ctx.Err()
	}
}

// Started closes the command's ends in this process, which the command has by now.
func (p *Pipes) Started() { closeAll(p.theirs) }

// Close closes all, where no command was started.
func (p *Pipes) Close() {
	closeAll(p.theirs)
	closeAll(p.ours)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// same says whether a and b are one writer.
func same(a, b io.Writer) bool {
	defer func() { recover() }() // of types that cannot be compared
	return a == b
}
