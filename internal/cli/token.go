package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/internal/auth"
)

func (e *env) tokenCommand(more []*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Aliases: []string{"tokens"}, Short: "Make tokens of the Machines API and take them back",
		Long: "A token is made from another, at first from the one in the data directory, and may do no more than that. What it may do is written in the\n" +
			"token itself; whoever holds it can narrow it further, nobody can widen it."}
	return group(cmd, append([]*cobra.Command{e.tokenCreate(), e.tokenAttenuate(), e.tokenList(), e.tokenRevoke()}, more...)...)
}

// caveatFlags are the ways to narrow a token.
type caveatFlags struct {
	org, from      string
	apps, machines []string
	readOnly       bool
	life           time.Duration
}

func (f *caveatFlags) add(cmd *cobra.Command, life time.Duration, lifeHelp string) {
	fs := cmd.Flags()
	fs.StringSliceVarP(&f.apps, "app", "a", nil, "only this app; several times")
	fs.StringSliceVar(&f.machines, "machine", nil, "only the machine with this id; several times")
	fs.StringVarP(&f.org, "org", "o", "", "only apps of this organisation")
	fs.BoolVar(&f.readOnly, "read-only", false, "only to look")
	fs.StringVar(&f.from, "from-machine", "", "only for requests that come from the machine with this id")
	fs.DurationVarP(&f.life, "expires", "x", life, lifeHelp)
}

// caveats are what the flags say; without a life, no Expires.
func (f *caveatFlags) caveats(now time.Time) (gondola.Caveats, error) {
	c := gondola.Caveats{Org: f.org, ReadOnly: f.readOnly, FromMachine: gondola.MachineID(f.from)}
	for _, a := range f.apps {
		c.Apps = append(c.Apps, gondola.AppName(a))
	}
	for _, m := range f.machines {
		c.Machines = append(c.Machines, gondola.MachineID(m))
	}
	if f.life < 0 {
		return c, UsageErrorf("--expires %s: want a time ahead, such as 24h", f.life)
	}
	if f.life > 0 {
		c.Expires = now.Add(f.life + time.Second).UTC().Truncate(time.Second)
	}
	return c, c.Validate(now)
}

func (e *env) tokenCreate() *cobra.Command {
	var name string
	var f caveatFlags
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token and print it", Args: exactArgs(),
		Long: "Makes a token from the one that is used (--token, GONDOLA_TOKEN or that of the data directory) and prints it; nobody is told it again. The\n" +
			"platform remembers that it was made, so that it can be listed and revoked.",
		Example: "  gondola token create --name ci --app shop --expires 1h\n  gondola token create --org personal --read-only",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.life == 0 {
				return UsageErrorf("--expires 0s: want a time ahead, such as 24h")
			}
			caveats, err := f.caveats(time.Now())
			if err != nil {
				return err
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			made, err := c.CreateToken(cmd.Context(), gondola.NewToken{Name: name, Caveats: caveats})
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(made)
			}
			fmt.Fprintf(e.err, "%s, good until %s; take it back with: gondola token revoke %s\n", made.ID, when(made.ExpiresAt), made.ID)
			_, err = fmt.Fprintln(e.out, made.Text)
			return err
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "what it is for, for the list")
	f.add(cmd, gondola.DefaultTokenLife, "how long it is good; never longer than the token it is made from")
	return cmd
}

func (e *env) tokenAttenuate() *cobra.Command {
	var f caveatFlags
	cmd := &cobra.Command{
		Use: "attenuate [TOKEN]", Short: "Narrow a token without asking anybody", Args: cobra.MaximumNArgs(1),
		Long: "Prints a token that may do what the given one may (by default --token, GONDOLA_TOKEN or that of the data directory), less what the flags take\n" +
			"away. No platform is asked and none remembers it: it ends with the token it was made from, or by its own name, which is printed too.",
		Example: "  gondola token attenuate --read-only --expires 10m",
		RunE: func(_ *cobra.Command, args []string) error {
			caveats, err := f.caveats(time.Now())
			if err != nil {
				return err
			}
			var from string
			if len(args) > 0 {
				from = args[0]
			} else if _, from, err = e.reach(); from == "" {
				return err
			}
			tok, err := auth.Attenuate(from, caveats)
			if err != nil {
				return UsageErrorf("%s", err)
			}
			id, err := auth.ID(tok)
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(map[string]any{"token": tok, "id": id})
			}
			fmt.Fprintln(e.err, id)
			_, err = fmt.Fprintln(e.out, tok)
			return err
		},
	}
	f.add(cmd, 0, "how long it is good (default: as long as the token it is made from)")
	return cmd
}

func (e *env) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tokens that were made from yours", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			list, err := c.ListTokens(cmd.Context())
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(orEmpty(list))
			}
			rows := [][]string{}
			for _, t := range list {
				rows = append(rows, []string{string(t.ID), t.Name, narrowness(t.Caveats), stateOf(t, time.Now()), when(t.ExpiresAt)})
			}
			return e.table([]string{"ID", "NAME", "ONLY", "STATE", "EXPIRES"}, rows)
		},
	}
}

func (e *env) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN|ID...", Aliases: []string{"rm", "delete"}, Short: "End tokens, and all that were made from them, at once and for ever", Args: minArgs("a token or its id"),
		Example: "  gondola token revoke tok_0123456789abcdef01234567",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			for _, a := range args {
				id := gondola.TokenID(a)
				if !strings.HasPrefix(a, "tok_") {
					if id, err = auth.ID(a); err != nil {
						return UsageErrorf("%q is neither a token nor the id of one, which begins with tok_", a[:min(len(a), 8)])
					}
				}
				if err := c.RevokeToken(cmd.Context(), id); err != nil {
					return err
				}
				if err := e.done(map[string]string{"id": string(id), "status": "revoked"}, string(id)+" revoked"); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// narrowness says in a few words what a token is narrowed to.
func narrowness(c gondola.Caveats) string {
	var words []string
	for _, a := range c.Apps {
		words = append(words, "app "+string(a))
	}
	for _, m := range c.Machines {
		words = append(words, "machine "+string(m))
	}
	if c.Org != "" {
		words = append(words, "org "+c.Org)
	}
	if c.ReadOnly {
		words = append(words, "read")
	}
	if c.FromMachine != "" {
		words = append(words, "from machine "+string(c.FromMachine))
	}
	return strings.Join(words, ", ")
}

func stateOf(t gondola.Token, now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "revoked"
	case !t.ExpiresAt.IsZero() && now.After(t.ExpiresAt):
		return "expired"
	}
	return "good"
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
