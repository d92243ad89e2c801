package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

func (e *env) secretsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Aliases: []string{"secret"}, Short: "Set and list the secrets of an App, which its Machines see as variables"}
	var app string
	cmd.PersistentFlags().StringVarP(&app, "app", "a", "default", "App whose secrets they are")
	return group(cmd, e.secretsSet(&app), e.secretsImport(&app), e.secretsUnset(&app), e.secretsList(&app), e.secretsDeploy(&app), e.secretsRenewKey())
}

func (e *env) secretsSet(app *string) *cobra.Command {
	var stage bool
	cmd := &cobra.Command{
		Use: "set NAME=VALUE...", Short: "Set secrets, and restart the Machines that run", Args: minArgs("NAME=VALUE"),
		Example: "  gondola secrets set DATABASE_URL=postgres://db/shop\n  gondola secrets set --stage TLS_KEY=- < key.pem",
		Long:    "Set secrets, and restart the Machines that run so that they see them.\n\nA VALUE of - is read from stdin, to its end.",
		RunE: func(cmd *cobra.Command, args []string) error {
			values := map[string]*string{}
			read := ""
			for _, arg := range args {
				name, value, ok := strings.Cut(arg, "=")
				if !ok {
					return UsageErrorf("secrets set wants NAME=VALUE, and one argument has no =") // it may be the value
				}
				if value == "-" {
					if read != "" {
						return UsageErrorf("%s and %s cannot both be read from stdin", read, name)
					}
					b, err := io.ReadAll(io.LimitReader(input{cmd.Context(), e.in}, gondola.MaxSecretValue+1))
					if err != nil {
						return fmt.Errorf("read %s from stdin: %w", name, err)
					}
					read, value = name, string(b)
				}
				values[name] = &value
			}
			return e.changeSecrets(cmd.Context(), *app, values, stage)
		},
	}
	stageFlag(cmd, &stage)
	return cmd
}

func stageFlag(cmd *cobra.Command, stage *bool) {
	cmd.Flags().BoolVar(stage, "stage", false, "leave running Machines as they are: they see it with their next start")
	cmd.Flags().BoolP("detach", "d", false, "accepted for those who are used to it: this never waits for health")
}

func (e *env) secretsImport(app *string) *cobra.Command {
	var stage bool
	cmd := &cobra.Command{
		Use: "import", Short: "Set secrets from lines NAME=VALUE on stdin", Args: exactArgs(),
		Example: "  gondola secrets import < .env",
		Long:    "Set secrets from lines NAME=VALUE on stdin.\n\nEmpty lines and those that begin with # are left out; a VALUE may stand in quotes, and between \"\"\" over several lines.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := parseSecrets(input{cmd.Context(), e.in})
			if err != nil {
				return err
			}
			return e.changeSecrets(cmd.Context(), *app, values, stage)
		},
	}
	stageFlag(cmd, &stage)
	return cmd
}

// input is what a command reads from in until ctx ends. A Read at a terminal cannot be interrupted; it may outlive the command.
type input struct {
	ctx context.Context
	in  io.Reader
}

func (i input) Read(p []byte) (int, error) {
	b, done := make([]byte, len(p)), make(chan struct{})
	var n int
	var err error
	go func() { defer close(done); n, err = i.in.Read(b) }()
	select {
	case <-done:
		return copy(p, b[:n]), err
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	}
}

// parseSecrets reads lines NAME=VALUE. Its errors name lines, never what is in them.
func parseSecrets(r io.Reader) (map[string]*string, error) {
	const quotes = `"""`
	values := map[string]*string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 2*gondola.MaxSecretValue)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			return nil, UsageErrorf("line %d is not NAME=VALUE", n)
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if rest, long := strings.CutPrefix(value, quotes); long {
			begin, parts := n, []string{}
			for !strings.Contains(rest, quotes) {
				parts = append(parts, rest)
				if !lines.Scan() {
					if err := lines.Err(); err != nil {
						return nil, fmt.Errorf("read secrets: %w", err)
					}
					return nil, UsageErrorf("the value that begins in line %d has no closing %s", begin, quotes)
				}
				rest, n = lines.Text(), n+1
			}
			rest, _, _ = strings.Cut(rest, quotes)
			value = strings.TrimPrefix(strings.Join(append(parts, rest), "\n"), "\n")
		} else if len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		values[name] = &value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	if len(values) == 0 {
		return nil, UsageErrorf("there is no NAME=VALUE on stdin")
	}
	return values, nil
}

func (e *env) secretsUnset(app *string) *cobra.Command {
	var stage bool
	cmd := &cobra.Command{
		Use: "unset NAME...", Aliases: []string{"rm", "delete"}, Short: "Remove secrets, and restart the Machines that run", Args: minArgs("a name"),
		Example: "  gondola secrets unset DATABASE_URL",
		RunE: func(cmd *cobra.Command, args []string) error {
			values := map[string]*string{}
			for _, name := range args {
				values[name] = nil
			}
			return e.changeSecrets(cmd.Context(), *app, values, stage)
		},
	}
	stageFlag(cmd, &stage)
	return cmd
}

// changeSecrets changes an App's secrets and, unless that is left for later, restarts the Machines that run.
func (e *env) changeSecrets(ctx context.Context, app string, values map[string]*string, stage bool) error {
	c, err := e.connect()
	if err != nil {
		return err
	}
	u, err := c.UpdateSecrets(ctx, gondola.AppName(app), values)
	if err != nil {
		return err
	}
	if stage {
		return e.done(u, fmt.Sprintf("the secrets of %s have version %d; running Machines see that after: gondola secrets deploy --app %s", app, u.Version, app))
	}
	n, err := e.restartStarted(ctx, c, app)
	if err != nil {
		return err
	}
	return e.done(u, fmt.Sprintf("the secrets of %s have version %d; %d Machines are restarted", app, u.Version, n))
}

// restartStarted restarts the Machines of an App that run.
func (e *env) restartStarted(ctx context.Context, c *client.Client, app string) (n int, err error) {
	all, err := c.List(ctx, gondola.AppName(app), gondola.ListFilter{States: []gondola.State{gondola.Started}})
	if err != nil {
		return 0, err
	}
	for _, m := range all {
		if err := c.Restart(ctx, gondola.Ref{App: gondola.AppName(app), ID: m.ID}, gondola.RestartRequest{}); err != nil {
			return n, fmt.Errorf("the secrets are set, but machine %s does not restart (see: gondola secrets deploy): %w", m.ID, err)
		}
		n++
	}
	return n, nil
}

func (e *env) secretsDeploy(app *string) *cobra.Command {
	return &cobra.Command{
		Use: "deploy", Short: "Restart the Machines that run, so that they see what was staged", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			n, err := e.restartStarted(cmd.Context(), c, *app)
			if err != nil {
				return err
			}
			return e.done(map[string]int{"restarted": n}, strconv.Itoa(n)+" Machines are restarted")
		},
	}
}

func (e *env) secretsList(app *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List secrets by name and digest, never their values", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			all, err := c.ListSecrets(cmd.Context(), gondola.AppName(*app), gondola.SecretsQuery{})
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(orEmpty(all))
			}
			rows := [][]string{}
			for _, s := range all {
				rows = append(rows, []string{s.Name, s.Digest, s.CreatedAt.Format(time.RFC3339), s.UpdatedAt.Format(time.RFC3339)})
			}
			return e.table([]string{"NAME", "DIGEST", "CREATED", "UPDATED"}, rows)
		},
	}
}

func (e *env) secretsRenewKey() *cobra.Command {
	return &cobra.Command{
		Use: "renew-key", Short: "Seal the secrets of all Apps with a new key and forget the old one", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			if err := c.RenewSecretsKey(cmd.Context()); err != nil {
				return err
			}
			return e.done(map[string]string{"status": "renewed"}, "the key of secrets is a new one; a backup of before needs the old one, which is in it")
		},
	}
}
