package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// sh is a POSIX shell with most of bash: sh [-c command [name [arg…]]], sh [script [arg…]], or what it reads from its input.
func sh(t *tool) int {
	var command *string
	args := t.args
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		flags := args[0]
		args = args[1:]
		if flags == "--" {
			break
		}
		if strings.Contains(flags, "c") {
			if len(args) == 0 {
				return t.failf(2, "-c needs a command")
			}
			command = &args[0]
			args = args[1:]
			break
		}
	}
	name, params := "sh", []string(nil)
	if len(args) > 0 {
		name, params = args[0], args[1:]
	}
	set := setOptions(t.args)
	in, _ := t.in.(*os.File)
	r, err := interp.New(interp.StdIO(t.in, os.Stdout, t.err), interp.ExecHandlers(ownTools), interp.CallHandler(ownKill),
		interp.Params(append(append(set, "--"), params...)...))
	if err != nil {
		return t.fail1(err)
	}
	switch {
	case command != nil:
		return runScript(t, r, strings.NewReader(*command), name)
	case len(args) > 0:
		f, err := os.Open(name)
		if err != nil {
			return t.failf(127, "%v", err)
		}
		defer f.Close()
		return runScript(t, r, f, name)
	case in != nil && term.IsTerminal(int(in.Fd())):
		return interact(t, r, in)
	}
	return runInput(t, r)
}

// setOptions keeps of the shell's own options those of the set command.
func setOptions(args []string) (set []string) {
	for _, a := range args {
		if len(a) < 2 || a[0] != '-' || a == "--" {
			return set
		}
		for _, c := range a[1:] {
			if strings.ContainsRune("eux", c) {
				set = append(set, "-"+string(c))
			}
		}
		if strings.Contains(a, "c") {
			return set
		}
	}
	return set
}

// runScript runs a whole script.
func runScript(t *tool, r *interp.Runner, script io.Reader, name string) int {
	file, err := syntax.NewParser().Parse(script, name)
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return exitCode(t, r.Run(context.Background(), file))
}

// runInput runs what comes in, each statement as soon as it is there.
func runInput(t *tool, r *interp.Runner) int {
	code := 0
	for stmt, err := range syntax.NewParser().StmtsSeq(t.in) {
		if err != nil {
			return t.failf(2, "%v", err)
		}
		if code = exitCode(t, r.Run(context.Background(), stmt)); r.Exited() {
			return code
		}
	}
	return leave(t, r, code)
}

// leave ends a shell whose input has ended; what it was told to trap then runs.
func leave(t *tool, r *interp.Runner, code int) int {
	if c := exitCode(t, r.Run(context.Background(), &syntax.File{})); r.Exited() {
		return c
	}
	return code
}

func exitCode(t *tool, err error) int {
	var status interp.ExitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	return t.fail1(err)
}

// interact reads from a terminal, which edits lines itself. Ctrl-C ends the command that runs, not the shell.
func interact(t *tool, r *interp.Runner, in *os.File) int {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	lines := bufio.NewReader(in)
	var pending strings.Builder
	code := 0
	for {
		prompt := "> "
		if pending.Len() == 0 {
			mark := "$"
			if os.Geteuid() == 0 {
				mark = "#"
			}
			prompt = fmt.Sprintf("%s %s ", r.Dir, mark)
		}
		fmt.Fprint(os.Stdout, prompt)
		line, err := lines.ReadString('\n')
		if line == "" && err != nil {
			fmt.Fprintln(os.Stdout)
			return leave(t, r, code)
		}
		pending.WriteString(line)
		file, err := syntax.NewParser().Parse(strings.NewReader(pending.String()), "")
		if syntax.IsIncomplete(err) {
			continue
		}
		pending.Reset()
		if err != nil {
			code = t.failf(2, "%v", err)
			continue
		}
		for len(interrupts) > 0 {
			<-interrupts // Ctrl-C at the prompt
		}
		for _, stmt := range file.Stmts {
			err, interrupted := runInterruptibly(r, stmt, interrupts)
			if interrupted {
				code = exitCode(t, r.Run(context.Background(), exit130()))
				break
			}
			if code = exitCode(t, err); r.Exited() {
				return code
			}
		}
	}
}

// runInterruptibly runs a statement; interrupted says that Ctrl-C ended it.
func runInterruptibly(r *interp.Runner, stmt *syntax.Stmt, interrupts <-chan os.Signal) (_ error, interrupted bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, stmt) }()
	select {
	case err := <-ended: // a command that the terminal interrupted may have ended before our own signal came
		return err, errors.Is(err, interp.ExitStatus(128+int(syscall.SIGINT)))
	case <-interrupts:
		cancel()
		<-ended
		return nil, true
	}
}

// exit130 is a statement that leaves in $? what a shell tells of an interrupted command.
func exit130() syntax.Node {
	file, err := syntax.NewParser().Parse(strings.NewReader("(exit 130)"), "")
	if err != nil {
		panic(err) // it is a constant
	}
	return file.Stmts[0]
}

// ownKill runs kill as a program: the interpreter takes it for a builtin, which it has not.
func ownKill(_ context.Context, args []string) ([]string, error) {
	if args[0] == "kill" {
		args = append([]string{"env"}, args...)
	}
	return args, nil
}

// ownTools runs a command that is not in PATH as a tool of this program, if it is one.
func ownTools(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		if strings.Contains(args[0], "/") || tools()[args[0]] == nil {
			return next(ctx, args)
		}
		if _, err := interp.LookPathDir(hc.Dir, hc.Env, args[0]); err == nil {
			return next(ctx, args)
		}
		cmd := exec.CommandContext(ctx, "/proc/self/exe", args[1:]...)
		cmd.Args[0] = args[0]
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = hc.Dir, hc.Stdin, hc.Stdout, hc.Stderr
		cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(os.Interrupt) }, 2*time.Second
		for name, v := range hc.Env.Each {
			if v.Exported {
				cmd.Env = append(cmd.Env, name+"="+v.String())
			}
		}
		return status(cmd.Run())
	}
}

// status turns what came of a process into what a shell knows.
func status(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return interp.ExitStatus(128 + int(ws.Signal()))
	}
	return interp.ExitStatus(exit.ExitCode())
}

// shellBuiltin runs one of the shell's own commands as a program: test, [, printf.
func shellBuiltin(t *tool) int {
	words := []string{t.name}
	for _, a := range t.args {
		q, err := syntax.Quote(a, syntax.LangBash)
		if err != nil {
			return t.fail1(err)
		}
		words = append(words, q)
	}
	r, err := interp.New(interp.StdIO(t.in, t.out, t.err))
	if err != nil {
		return t.fail1(err)
	}
	return runScript(t, r, strings.NewReader(strings.Join(words, " ")), t.name)
}
