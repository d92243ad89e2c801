package oci

import (
	"io"
	"os"
	"sync"
	"time"

	"gondola"
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

// Copy copies in the background. The function it returns waits for the rest of the output, a while, and closes the pipes.
func (p *Pipes) Copy(streams gondola.ExecIO) func() {
	if p.stdin != nil {
		go func() { // ends with the input, or with the first write after the command's end
			io.Copy(p.stdin, streams.Stdin)
			p.stdin.Close()
		}()
	}
	var copies sync.WaitGroup
	for from, to := range p.output {
		copies.Go(func() { io.Copy(to, from) })
	}
	return func() {
		giveUp := time.AfterFunc(OutputGrace, func() { closeAll(p.ours) }) // ends the copies
		copies.Wait()
		giveUp.Stop()
		closeAll(p.ours)
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
