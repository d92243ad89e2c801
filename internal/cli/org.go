package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"gondola"
)

func (e *env) orgCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "org", Aliases: []string{"orgs"}, Short: "Look at organisations, which own Apps"}
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the organisations that the token reaches", Args: exactArgs(),
		Long: "Lists organisations. One is made by the first App in it (gondola app create --org SLUG) and gone with the last; personal is always there.\n" +
			"Organisations share no network.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			list, err := c.ListOrgs(cmd.Context())
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(orEmpty(list))
			}
			rows := [][]string{}
			for _, o := range list {
				rows = append(rows, []string{o.Slug, fmt.Sprint(o.Apps)})
			}
			return e.table([]string{"ORGANISATION", "APPS"}, rows)
		},
	}
	show := &cobra.Command{
		Use: "show SLUG", Short: "Show an organisation's Apps", Args: exactArgs("an organisation"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			list, err := c.ListOrgs(cmd.Context())
			if err != nil {
				return err
			}
			for _, o := range list {
				if o.Slug == args[0] {
					apps, err := c.ListApps(cmd.Context(), o.Slug)
					if err != nil {
						return err
					}
					return e.printApps(apps, true)
				}
			}
			return gondola.Errorf(gondola.ErrNotFound, "there is no organisation %q: see gondola org list", args[0])
		},
	}
	return group(cmd, list, show)
}
