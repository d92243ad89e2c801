// Package program is the one program that the tests of drivers run in containers: driver/fake as a function in its own process, real drivers
// as a static binary (package cmd below it), which they put at /program in an image.
//
// Its arguments are commands, one after the other, with ";" as an argument between them: "write /data/x hello ; exit 3". It exits with the
// last one's code, or with the first that is not zero. A signal that no command traps ends it with 128 + its number.
package program

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gondola"
)

// Env is the world as the program sees it.
type Env struct {
	Args     []string // Args[0] is the program itself
	Env      []string // NAME=value
	Dir      string
	UID, GID uint32
	Groups   []uint32

	Stdin          io.Reader
	Stdout, Stderr io.Writer

	Trap   func() <-chan gondola.Signal         // from its first call on, signals come here instead of ending the program
	Done   <-chan struct{}                      // closes when the program has to go at once; nil where the kernel sees to that
	Path   func(string) string                  // the path on this host of a path in the container
	Listen func(port int) (net.Listener, error) // on 127.0.0.1
	Alloc  func(bytes int64)                    // uses so much memory from now on
	Size   func() (gondola.TerminalSize, bool)  // of the terminal; false without one
}

// commands are what the program can do.
var commands = map[string]func(e *Env, args []string) int{
	"exit": exit, "print": printLines, "printerr": printErr, "run": run, "sleep": sleep, "trap": trap, "ignore": ignore, "echo": echo,
	"alloc": alloc, "listen": listen, "http": serveHTTP, "count": count, "respond": respond, "serve-unix": serveUnix, "dial-unix": dialUnix, "ask": ask, "asklate": asklate, "write": write, "append": appendTo, "remove": remove, "read": read, "disk": disk,
	"env": env, "cwd": cwd, "id": id, "watch": watch, "lines": lines, "ticks": ticks, "await": await, "once": once, "size": size,
}

// Main runs the program and returns its exit code.
func Main(e Env) int {
	args := e.Args[min(1, len(e.Args)):]
	if len(args) == 0 {
		args = []string{"run"}
	}
	for cmd := range slices.Values(split(args)) {
		f, ok := commands[cmd[0]]
		if !ok {
			fmt.Fprintf(e.Stderr, "program: unknown command %q\n", cmd[0])
			return 2
		}
		if code := f(&e, cmd[1:]); code != 0 {
			return code
		}
	}
	return 0
}

func split(args []string) (cmds [][]string) {
	start := 0
	for i := range len(args) + 1 {
		if i == len(args) || args[i] == ";" {
			if i > start {
				cmds = append(cmds, args[start:i])
			}
			start = i + 1
		}
	}
	return cmds
}

func (e *Env) fail(err error) int {
	fmt.Fprintf(e.Stderr, "program: %v\n", err)
	return 1
}

// wait waits for d; false if the program has to go.
func (e *Env) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-e.Done:
		return false
	}
}

func arg(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

func number(args []string, i int) int {
	n, _ := strconv.Atoi(arg(args, i))
	return n
}

// exit N ends the program with that code.
func exit(_ *Env, args []string) int { return number(args, 0) }

// print TEXT… writes each as a line.
func printLines(e *Env, args []string) int {
	for _, a := range args {
		fmt.Fprintln(e.Stdout, a)
	}
	return 0
}

// printerr TEXT… does so on stderr.
func printErr(e *Env, args []string) int {
	for _, a := range args {
		fmt.Fprintln(e.Stderr, a)
	}
	return 0
}

// run says "running" and runs for ever.
func run(e *Env, _ []string) int {
	fmt.Fprintln(e.Stdout, "running")
	return forever(e)
}

func forever(e *Env) int {
	if e.Done != nil {
		<-e.Done
		return 0
	}
	for e.wait(time.Hour) {
	}
	return 0
}

// sleep DURATION waits ("1s", "infinity", or a number of seconds).
func sleep(e *Env, args []string) int {
	if arg(args, 0) == "infinity" {
		return forever(e)
	}
	d, err := time.ParseDuration(arg(args, 0))
	if err != nil {
		d = time.Duration(number(args, 0)) * time.Second
	}
	e.wait(d)
	return 0
}

// trap says "ready", waits for a signal, says which, and goes on.
func trap(e *Env, _ []string) int {
	c := e.Trap()
	fmt.Fprintln(e.Stdout, "ready")
	select {
	case sig := <-c:
		fmt.Fprintln(e.Stdout, "got", sig)
	case <-e.Done:
	}
	return 0
}

// ignore says "ready" and every signal it gets, and never ends.
func ignore(e *Env, _ []string) int {
	c := e.Trap()
	fmt.Fprintln(e.Stdout, "ready")
	for {
		select {
		case sig := <-c:
			fmt.Fprintln(e.Stdout, "ignored", sig)
		case <-e.Done:
			return 0
		}
	}
}

// echo copies stdin to stdout until its end.
func echo(e *Env, _ []string) int {
	if _, err := io.Copy(e.Stdout, e.Stdin); err != nil {
		return e.fail(err)
	}
	return 0
}

// alloc BYTES uses so much memory.
func alloc(e *Env, args []string) int {
	e.Alloc(int64(number(args, 0)))
	fmt.Fprintln(e.Stdout, "allocated")
	return 0
}

// listen PORT answers every line on 127.0.0.1:PORT with "hello " and the line, for ever.
func listen(e *Env, args []string) int {
	l, err := e.Listen(number(args, 0))
	if err != nil {
		return e.fail(err)
	}
	fmt.Fprintln(e.Stdout, "listening")
	return e.serve(l)
}

func (e *Env) serve(l net.Listener) int {
	var conns sync.WaitGroup
	defer conns.Wait()
	stop := make(chan struct{})
	defer close(stop)
	conns.Go(func() {
		select {
		case <-e.Done:
		case <-stop:
		}
		l.Close()
	})
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		go func() {
			defer c.Close()
			in := bufio.NewScanner(c)
			for in.Scan() {
				fmt.Fprintf(c, "hello %s\n", in.Text())
			}
		}()
	}
}

// answer listens on 127.0.0.1:port, says so, and has every HTTP request answered once its head is read.
func (e *Env) answer(port int, says string, reply func(c net.Conn, rest io.Reader)) int {
	l, err := e.Listen(port)
	if err != nil {
		return e.fail(err)
	}
	fmt.Fprintln(e.Stdout, says)
	go func() {
		<-e.Done
		l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		go func() {
			defer c.Close()
			in := bufio.NewReader(c)
			for {
				line, err := in.ReadString('\n')
				if err != nil || strings.TrimSpace(line) == "" {
					break
				}
			}
			reply(c, in)
		}()
	}
}

// writeAnswer writes an answer with this status and body, and ends the connection.
func writeAnswer(c net.Conn, status, body string) {
	fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, len(body), body)
}

// serveHTTP PORT FILE answers HTTP requests on 127.0.0.1:PORT: 200 while FILE does not exist or is not named, else 500.
func serveHTTP(e *Env, args []string) int {
	return e.answer(number(args, 0), "listening", func(c net.Conn, _ io.Reader) {
		status := "200 OK"
		if len(args) > 1 {
			if _, err := os.Stat(e.Path(args[1])); err == nil {
				status = "500 Internal Server Error"
			}
		}
		writeAnswer(c, status, "ok")
	})
}

// count PORT answers HTTP with how often it was asked, which it keeps in memory.
func count(e *Env, args []string) int {
	var n atomic.Int64
	return e.answer(number(args, 0), "counting", func(c net.Conn, _ io.Reader) {
		writeAnswer(c, "200 OK", strconv.FormatInt(n.Add(1), 10))
	})
}

// respond PORT HEAD BODY answers HTTP with this status ("200 OK", with lines of the header behind it) and body, whatever is asked; without HEAD it
// never answers.
func respond(e *Env, args []string) int {
	return e.answer(number(args, 0), "listening", func(c net.Conn, rest io.Reader) {
		if len(args) > 1 {
			writeAnswer(c, args[1], arg(args, 2))
		} else {
			io.Copy(io.Discard, rest)
		}
	})
}

// serve-unix PATH answers like listen on a unix socket.
func serveUnix(e *Env, args []string) int {
	l, err := net.Listen("unix", e.Path(arg(args, 0)))
	if err != nil {
		return e.fail(err)
	}
	fmt.Fprintln(e.Stdout, "listening")
	return e.serve(l)
}

// dial-unix PATH TEXT sends a line to a unix socket, once it is there, and prints the answer.
func dialUnix(e *Env, args []string) int {
	path := e.Path(arg(args, 0))
	var c net.Conn
	err := errors.New("never tried")
	for range 200 {
		if c, err = net.Dial("unix", path); err == nil || !e.wait(50*time.Millisecond) {
			break
		}
	}
	if err != nil {
		return e.fail(err)
	}
	defer c.Close()
	fmt.Fprintln(c, arg(args, 1))
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return e.fail(err)
	}
	fmt.Fprint(e.Stdout, answer)
	return 0
}

// ask PATH METHOD URL HEADER… sends an HTTP request to a unix socket, and prints status and body of the answer, a line.
func ask(e *Env, args []string) int { return question(e, args, 0) }

// asklate is ask by a program that is slow to read the answer, but for its first byte.
func asklate(e *Env, args []string) int { return question(e, args, 300*time.Millisecond) }

func question(e *Env, args []string, pause time.Duration) int {
	c, err := net.Dial("unix", e.Path(arg(args, 0)))
	if err != nil {
		return e.fail(err)
	}
	defer c.Close()
	header := "Host: anything\r\n"
	for _, line := range args[min(3, len(args)):] {
		header += line + "\r\n"
	}
	fmt.Fprintf(c, "%s %s HTTP/1.0\r\n%s\r\n", arg(args, 1), arg(args, 2), header)
	first := make([]byte, 1)
	if _, err := c.Read(first); err != nil {
		return e.fail(err)
	}
	if !e.wait(pause) {
		return 0
	}
	rest, err := io.ReadAll(c)
	if err != nil {
		return e.fail(err)
	}
	head, body, _ := strings.Cut(string(first)+string(rest), "\r\n\r\n")
	_, status, _ := strings.Cut(head, " ")
	status, _, _ = strings.Cut(status, " ")
	if status == "" {
		return e.fail(errors.New("no answer"))
	}
	fmt.Fprintln(e.Stdout, status, strings.TrimSpace(body))
	return 0
}

// write PATH TEXT makes a file.
func write(e *Env, args []string) int {
	if err := os.WriteFile(e.Path(arg(args, 0)), []byte(arg(args, 1)), 0o644); err != nil {
		return e.fail(err)
	}
	return 0
}

// append PATH TEXT adds a line to a file.
func appendTo(e *Env, args []string) int {
	f, err := os.OpenFile(e.Path(arg(args, 0)), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return e.fail(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, arg(args, 1)); err != nil {
		return e.fail(err)
	}
	return 0
}

// read PATH prints a file.
func read(e *Env, args []string) int {
	data, err := os.ReadFile(e.Path(arg(args, 0)))
	if err != nil {
		return e.fail(err)
	}
	e.Stdout.Write(data)
	return 0
}

// remove PATH removes a file.
func remove(e *Env, args []string) int {
	if err := os.Remove(e.Path(arg(args, 0))); err != nil {
		return e.fail(err)
	}
	return 0
}

// disk PATH TEXT writes TEXT over the end of a file, as of a disk. Without TEXT it prints how long the file is, and its last four bytes.
func disk(e *Env, args []string) int {
	f, err := os.OpenFile(e.Path(arg(args, 0)), os.O_RDWR, 0)
	if err != nil {
		return e.fail(err)
	}
	defer f.Close()
	text := []byte(arg(args, 1))
	at, err := f.Seek(-int64(max(len(text), 4)), io.SeekEnd)
	if err == nil && len(text) > 0 {
		_, err = f.WriteAt(text, at)
		err = errors.Join(err, f.Sync())
	} else if err == nil {
		text = make([]byte, 4)
		_, err = f.ReadAt(text, at)
		fmt.Fprintf(e.Stdout, "%d %q\n", at+4, text)
	}
	if err != nil {
		return e.fail(err)
	}
	return 0
}

// env NAME… prints the variables, one a line.
func env(e *Env, args []string) int {
	for _, name := range args {
		value := "(unset)"
		for _, kv := range e.Env {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				value = v
			}
		}
		fmt.Fprintf(e.Stdout, "%s=%s\n", name, value)
	}
	return 0
}

// cwd prints the working directory.
func cwd(e *Env, _ []string) int {
	fmt.Fprintln(e.Stdout, e.Dir)
	return 0
}

// id prints "uid:gid groups".
func id(e *Env, _ []string) int {
	fmt.Fprintf(e.Stdout, "%d:%d %v\n", e.UID, e.GID, e.Groups)
	return 0
}

// watch PATH prints the contents of a file, and again whenever they change, for ever.
func watch(e *Env, args []string) int {
	last := ""
	for {
		if data, err := os.ReadFile(e.Path(arg(args, 0))); err == nil && string(data) != last {
			last = string(data)
			fmt.Fprintln(e.Stdout, last)
		}
		if !e.wait(50 * time.Millisecond) {
			return 0
		}
	}
}

// lines N BYTES prints N numbered lines, filled up to so many bytes each.
func lines(e *Env, args []string) int {
	fill := strings.Repeat("x", max(0, number(args, 1)-10))
	out := bufio.NewWriterSize(e.Stdout, 64<<10)
	for i := range number(args, 0) {
		fmt.Fprintf(out, "%09d %s\n", i, fill)
	}
	if err := out.Flush(); err != nil {
		return e.fail(err)
	}
	return 0
}

// ticks prints "tick <n>" every 20 ms, for ever.
func ticks(e *Env, _ []string) int {
	for i := 0; ; i++ {
		fmt.Fprintln(e.Stdout, "tick", i)
		if !e.wait(20 * time.Millisecond) {
			return 0
		}
	}
}

// await PATH waits until a file is there.
func await(e *Env, args []string) int {
	for {
		if _, err := os.Stat(e.Path(arg(args, 0))); err == nil {
			return 0
		}
		if !e.wait(20 * time.Millisecond) {
			return 0
		}
	}
}

// once PATH N fails with code N unless PATH exists, which it makes.
func once(e *Env, args []string) int {
	path := e.Path(arg(args, 0))
	if _, err := os.Stat(path); err == nil {
		return 0
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return e.fail(err)
	}
	return number(args, 1)
}

// size prints "<width>x<height>" of the terminal, and again after every SIGWINCH until another signal comes.
func size(e *Env, _ []string) int {
	c := e.Trap()
	for {
		s, ok := e.Size()
		if !ok {
			return e.fail(errors.New("not a terminal"))
		}
		fmt.Fprintf(e.Stdout, "%dx%d\n", s.Width, s.Height)
		select {
		case sig := <-c:
			if sig != "SIGWINCH" {
				return 128 + sig.Number()
			}
		case <-e.Done:
			return 0
		}
	}
}
