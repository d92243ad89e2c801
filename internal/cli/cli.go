// Package cli is what a person types: one file per noun, all printing in one place. Commands speak to the platform only through package
// client; those that need more (up, down, doctor, kubectl) are handed in by cmd/gondola.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

// Parts are the commands and facts that come from outside this package.
type Parts struct {
	Version  string
	Commands []*cobra.Command // up, down, doctor, kubectl
	// DataDir is where --data points when it is not given.
	DataDir string
}

// env is what every command has: where to print, how to reach the platform.
type env struct {
	data, url, token string
	asJSON           bool
	out, err         io.Writer
	in               io.Reader
}

// New returns the whole command tree.
func New(p Parts) *cobra.Command {
	e := &env{out: os.Stdout, err: os.Stderr, in: os.Stdin}
	root := &cobra.Command{
		Use:           "gondola",
		Short:         "Kubernetes without nodes, on machines you own or rent",
		Long:          "Gondola runs Kubernetes Pods, and Machines of the Fly.io kind, each in a sandbox of its own on this host.\n\nStart with: gondola up",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       p.Version,
	}
	f := root.PersistentFlags()
	f.StringVar(&e.data, "data", p.DataDir, "data directory (or GONDOLA_DATA)")
	f.StringVar(&e.url, "api", os.Getenv("GONDOLA_API"), "URL of the Machines API (default: that of the data directory; or GONDOLA_API)")
	f.StringVar(&e.token, "token", "", "token of the Machines API (default: that of the data directory; or GONDOLA_TOKEN)")
	f.BoolVar(&e.asJSON, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	root.AddCommand(p.Commands...)
	root.AddCommand(e.machineCommand(), e.appCommand(), e.imageCommand(), e.marketCommand(), e.regionCommand(), e.logsCommand(), e.execCommand(),
		e.statusCommand(), e.versionCommand(p.Version))
	return root
}

// Main runs the command line and returns the exit code: 0, 1 for an error, 2 for wrong usage, or that of a command run by exec.
func Main(ctx context.Context, p Parts, args []string) int {
	root := New(p)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code ExitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag"):
		fmt.Fprintln(os.Stderr, "gondola:", err)
		return 2
	}
	fmt.Fprintln(os.Stderr, "gondola:", err)
	for _, r := range gondola.Refusals(err) {
		fmt.Fprintf(os.Stderr, "  %s: %s\n", r.Region, r.Reason)
	}
	return 1
}

// ExitCode is an error that only sets the exit code: what there was to say is said.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// exactArgs is cobra.ExactArgs with words: want names the arguments.
func exactArgs(want ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != len(want) {
			return usageError{fmt.Errorf("%s wants %s, got %d arguments", c.CommandPath(), strings.Join(want, " "), len(args))}
		}
		return nil
	}
}

// connect returns a client of the platform, from flags, environment or data directory.
func (e *env) connect() (*client.Client, error) {
	url, token := e.url, e.token
	if token == "" {
		token = os.Getenv("GONDOLA_TOKEN")
	}
	if url == "" || token == "" {
		local, err := client.Local(e.data)
		if err != nil {
			return nil, err
		}
		if url == "" {
			url = local.API
		}
		if token == "" {
			if token, err = local.Token(); err != nil {
				return nil, err
			}
		}
	}
	return client.New(client.Config{URL: url, Token: token})
}

// printJSON prints v as JSON; a nil slice is an empty array.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows in columns under a heading.
func (e *env) table(heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(e.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(heading, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}
