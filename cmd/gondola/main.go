// Command gondola is the whole platform in one binary: it joins the daemon, the commands and Kubernetes.
package main

import (
	"context"
	"embed"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gondola/internal/cli"
	"gondola/internal/daemon"
)

// assets holds pilot.gz and hello.gz where `make build` has put them.
//
//go:embed assets
var assets embed.FS

// version is set by the linker.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	// Kubernetes' packages put flags of theirs on the command line of whoever links them, and cobra would take them for ours.
	pflag.CommandLine = pflag.NewFlagSet(os.Args[0], pflag.ContinueOnError)
	p := &program{version: versionOf(), unit: daemon.ServiceFile}
	code := cli.Main(ctx, cli.Parts{Version: p.version, Commands: p.commands(), Token: []*cobra.Command{p.tokenCA()}, DataDir: dataDir()}, os.Args[1:])
	stop()
	os.Exit(code)
}

func versionOf() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "dev"
}

func asset(name string) []byte {
	b, err := assets.ReadFile("assets/" + name)
	if err != nil {
		return nil // built without make: up says what to do
	}
	return b
}
