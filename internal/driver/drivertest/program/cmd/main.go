// Command program is package program as a binary, for the images of the drivers' tests. Build it with CGO_ENABLED=0.
package main

import (
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/drivertest/program"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	trapped := make(chan gondola.Signal, 16)
	var trap atomic.Bool
	go func() {
		for sig := range signals {
			num := int(sig.(syscall.Signal))
			name := gondola.Signal(unix.SignalName(sig.(syscall.Signal)))
			switch {
			case trap.Load():
				trapped <- name
			case name != "SIGWINCH":
				os.Exit(128 + num) // as process 1 it would not die of the signal itself
			}
		}
	}()
	dir, _ := os.Getwd()
	groups, _ := os.Getgroups()
	e := program.Env{Args: os.Args, Env: os.Environ(), Dir: dir, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Trap: func() <-chan gondola.Signal { trap.Store(true); return trapped },
		Path: func(p string) string { return p },
		Listen: func(port int) (net.Listener, error) {
			return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		},
		Alloc: alloc,
		Size: func() (gondola.TerminalSize, bool) {
			ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ)
			if err != nil {
				return gondola.TerminalSize{}, false
			}
			return gondola.TerminalSize{Width: ws.Col, Height: ws.Row}, true
		}}
	for _, g := range groups {
		e.Groups = append(e.Groups, uint32(g))
	}
	os.Exit(program.Main(e))
}

// alloc takes memory from the kernel, touches it, and keeps it to the end of the process.
func alloc(bytes int64) {
	b, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		os.Exit(12)
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
}
