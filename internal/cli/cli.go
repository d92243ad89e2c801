// Package cli is what a person types: one file per noun, all printing in one place. Commands speak to the platform only through package
// client; those that need more (up, down, doctor, kubectl) are handed in by cmd/gondola.
package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	Token    []*cobra.Command // below `token`: ca
	DataDir  string           // where --data points when it is not given
	In       io.Reader        // If nil, os.Stdin.
	Out, Err io.Writer        // If nil, os.Stdout and os.Stderr.
}

// env is what every command has: where to print, how to reach the platform.
type env struct {
	data, url, token string
	ca               string // file
	lease            string // nonce
	asJSON           bool
	out, err         io.Writer
	in               io.Reader
}

func (p Parts) complete() Parts {
	if p.In == nil {
		p.In = os.Stdin
	}
	if p.Out == nil {
		p.Out = os.Stdout
	}
	if p.Err == nil {
		p.Err = os.Stderr
	}
	return p
}

// New returns the whole command tree.
func New(p Parts) *cobra.Command {
	p = p.complete()
	e := &env{out: p.Out, err: p.Err, in: p.In}
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
	f.StringVar(&e.token, "token", "", "token of the Machines API (default: that of the data directory, for its own API alone; or GONDOLA_TOKEN)")
	f.StringVar(&e.ca, "ca", os.Getenv("GONDOLA_CA"), "file with the certificate that an https API is trusted by (default: this machine's; or GONDOLA_CA)")
	f.BoolVar(&e.asJSON, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	root.AddCommand(p.Commands...)
	root.AddCommand(e.machineCommand(), e.appCommand(), e.secretsCommand(), e.volumeCommand(), e.imageCommand(), e.marketCommand(), e.regionCommand(), e.logsCommand(), e.execCommand(),
		e.statusCommand(), e.versionCommand(p.Version), e.tokenCommand(p.Token), e.orgCommand())
	return root
}

// Main runs the command line and returns the exit code: 0, 1 for an error, 2 for wrong usage, 130 when ctx ended first (Ctrl-C), or that of a
// command run by exec.
func Main(ctx context.Context, p Parts, args []string) int {
	p = p.complete()
	root := New(p)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code ExitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, gondola.ErrDeadline)):
		return 130
	}
	fmt.Fprintln(p.Err, "gondola:", err)
	if isUsage(err) {
		return 2
	}
	for _, r := range gondola.Refusals(err) {
		line := fmt.Sprintf("%s: %s", r.Region, r.Reason)
		if !strings.Contains(err.Error(), line) {
			fmt.Fprintln(p.Err, " ", line)
		}
	}
	if next := nextStep(err); next != "" {
		fmt.Fprintln(p.Err, " ", next)
	}
	return 1
}

// isUsage says whether an error is about the command line itself; cobra's own errors have only their words.
func isUsage(err error) bool {
	var usage usageError
	return errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag")
}

// nextStep is what to try after an error whose own words do not tell.
func nextStep(err error) string {
	switch {
	case errors.Is(err, gondola.ErrUnauthorized):
		return "check --token, GONDOLA_TOKEN and --data; a new one is made by: gondola token create"
	case errors.Is(err, gondola.ErrUnavailable):
		return "is it running? see: gondola status; start it with: gondola up"
	case errors.Is(err, gondola.ErrCapacity):
		return "see what is free with: gondola market ask; make room with: gondola machine destroy"
	}
	return ""
}

// ExitCode is an error that only sets the exit code: what there was to say is said.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// UsageErrorf is an error about the command line: the exit code is 2.
func UsageErrorf(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// group makes a command of those below it: alone it prints help, with anything else it says what there is.
func group(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(below...)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		var names []string
		for _, b := range c.Commands() {
			names = append(names, b.Name())
		}
		return UsageErrorf("unknown command %q for %q: there is %s", args[0], c.CommandPath(), strings.Join(names, ", "))
	}
	return cmd
}

// minArgs wants at least one argument for each name.
func minArgs(want ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < len(want) {
			return UsageErrorf("%s wants %s, such as: %s", c.CommandPath(), strings.Join(want, " and "), strings.TrimSpace(strings.SplitN(c.Example, "\n", 2)[0]))
		}
		return nil
	}
}

// exactArgs is cobra.ExactArgs with words: want names the arguments.
func exactArgs(want ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != len(want) {
			what := strings.Join(want, " and ")
			if what == "" {
				what = "no arguments"
			}
			return UsageErrorf("%s wants %s, got %d arguments; see %s --help", c.CommandPath(), what, len(args), c.CommandPath())
		}
		return nil
	}
}

// reach returns which platform is meant and the token for it, from flags, environment or data directory. Of a platform that is not the data
// directory's only its API is known, and it does not get that one's token: whoever names an API would have it.
func (e *env) reach() (platform client.Running, token string, err error) {
	token = cmp.Or(e.token, os.Getenv("GONDOLA_TOKEN"))
	local, err := client.Local(e.data)
	if e.url != "" && (err != nil || strings.TrimRight(e.url, "/") != local.API) {
		if token == "" {
			return local, "", UsageErrorf("the API %s wants a token: pass --token or set GONDOLA_TOKEN; that of the data directory %s is only for its own API", e.url, e.data)
		}
		return client.Running{API: e.url}, token, nil
	}
	if err == nil && token == "" {
		token, err = local.Token()
	}
	return local, token, err
}

// connect returns a client of the platform.
func (e *env) connect() (*client.Client, error) {
	platform, token, err := e.reach()
	if err != nil {
		return nil, err
	}
	config, err := e.tls()
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{URL: platform.API, Token: token, TLS: config, Retries: 3})
}

// tls is the configuration for https; nil where no CA is named.
func (e *env) tls() (*tls.Config, error) {
	if e.ca == "" {
		return nil, nil
	}
	b, err := os.ReadFile(e.ca)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, UsageErrorf("--ca: %s holds no certificate: get it with `gondola token ca` on the machine that runs gondola", e.ca)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// printJSON prints v as JSON.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// orEmpty makes a nil slice an empty array in JSON.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
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
