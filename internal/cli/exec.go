package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gondola"
)

func (e *env) logsCommand() *cobra.Command {
	var o gondola.LogOptions
	var since time.Duration
	var tail int64
	cmd := &cobra.Command{
		Use: "logs MACHINE", Short: "Print what a Machine wrote", Args: exactArgs("the id or name of a Machine"),
		ValidArgsFunction: e.completeMachine,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			m, err := find(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if since > 0 {
				o.Since = time.Now().Add(-since)
			}
			if cmd.Flags().Changed("tail") {
				if tail < 0 {
					return UsageErrorf("--tail %d: want zero or more lines", tail)
				}
				o.Tail = &tail
			}
			r, err := c.Logs(cmd.Context(), m.Ref(), o)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(e.out, r)
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on as it writes")
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "begin each line with its time")
	f.BoolVarP(&o.Previous, "previous", "p", false, "of the run before")
	f.StringVarP(&o.Container, "container", "c", "", "which container (default: the first)")
	f.DurationVar(&since, "since", 0, "only the last while, such as 10m")
	f.Int64Var(&tail, "tail", -1, "only the last lines")
	return cmd
}

func (e *env) execCommand() *cobra.Command {
	var container string
	var tty, stdin bool
	cmd := &cobra.Command{
		Use: "exec MACHINE COMMAND...", Short: "Run a command in a Machine", Example: "  gondola exec -it 3d8d9e1f0a2b4c sh",
		Args: minArgs("a Machine", "a command"), ValidArgsFunction: e.completeMachine,
		RunE: func(cmd *cobra.Command, args []string) error {
			command := args[1:]
			if command[0] == "--" && len(command) > 1 { // as kubectl wants it
				command = command[1:]
			}
			return e.exec(cmd.Context(), args[0], gondola.ExecOptions{Container: container, Command: command, TTY: tty, Stdin: stdin})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&container, "container", "c", "", "which container (default: the first)")
	f.BoolVarP(&tty, "tty", "t", false, "with a terminal")
	f.BoolVarP(&stdin, "stdin", "i", false, "pass standard input")
	return cmd
}

// consoleCommand is a shell in a Machine: with a terminal where standard input is one, and else fed by it.
func (e *env) consoleCommand() *cobra.Command {
	var container, command string
	cmd := &cobra.Command{
		Use: "console MACHINE", Short: "Open a shell in a Machine", Example: "  gondola machine console web\n  echo 'ls /' | gondola machine console web",
		Args: exactArgs("the id or name of a Machine"), ValidArgsFunction: e.completeMachine,
		RunE: func(cmd *cobra.Command, args []string) error {
			words, err := plainWords("--command", command)
			if err != nil {
				return err
			}
			tty := e.in == os.Stdin && term.IsTerminal(int(os.Stdin.Fd()))
			return e.exec(cmd.Context(), args[0], gondola.ExecOptions{Container: container, Command: words, TTY: tty, Stdin: true})
		},
	}
	cmd.Flags().StringVarP(&container, "container", "c", "", "which container (default: the first)")
	cmd.Flags().StringVarP(&command, "command", "C", "sh", "what to run")
	return cmd
}

// exec runs a command in a Machine with this terminal's streams. Its exit code is the error.
func (e *env) exec(ctx context.Context, machine string, o gondola.ExecOptions) error {
	c, err := e.connect()
	if err != nil {
		return err
	}
	m, err := find(ctx, c, machine)
	if err != nil {
		return err
	}
	streams := gondola.ExecIO{Stdout: e.out}
	if o.Stdin {
		streams.Stdin = e.in
	}
	if o.TTY {
		restore, resize, err := terminal(ctx, o.Stdin)
		if err != nil {
			return err
		}
		defer restore()
		streams.Resize = resize
	} else {
		streams.Stderr = e.err
	}
	st, err := c.ExecStream(ctx, m.Ref(), o, streams)
	if err != nil {
		return err
	}
	if st.Code != 0 {
		return ExitCode(st.Code)
	}
	return nil
}

// terminal reports the size of the terminal on standard input now and whenever it changes. Raw, its keys, Ctrl-C too, are for the other end to read.
func terminal(ctx context.Context, raw bool) (restore func(), sizes <-chan gondola.TerminalSize, err error) {
	fd := int(os.Stdin.Fd())
	old, err := term.GetState(fd)
	if err == nil && raw {
		_, err = term.MakeRaw(fd)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("-t wants a terminal on standard input: %w", err)
	}
	ch, winch := make(chan gondola.TerminalSize, 1), make(chan os.Signal, 1)
	signal.Notify(winch, syscall.SIGWINCH)
	go func() {
		for {
			if w, h, err := term.GetSize(fd); err == nil {
				select {
				case ch <- gondola.TerminalSize{Width: uint16(w), Height: uint16(h)}:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-winch:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { signal.Stop(winch); _ = term.Restore(fd, old) }, ch, nil
}
