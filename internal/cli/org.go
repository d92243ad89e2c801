package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

// orgRow is an organisation as its Apps tell of it.
type orgRow struct {
	gondola.Organization
	Apps []gondola.AppName `json:"apps"`
}

// orgs returns the organisations of the Apps that the token reaches, and the platform's own, which is there without an App.
func orgs(apps []gondola.App) []*orgRow {
	all := []*orgRow{{gondola.Organization{Name: gondola.Org, Slug: gondola.Org}, []gondola.AppName{}}}
	bySlug := map[string]*orgRow{gondola.Org: all[0]}
	for _, a := range apps {
		row := bySlug[a.Organization.Slug]
		if row == nil {
			row = &orgRow{Organization: a.Organization}
			bySlug[a.Organization.Slug], all = row, append(all, row)
		}
		row.Organization, row.Apps = a.Organization, append(row.Apps, a.Name)
	}
	return all
}

func (e *env) orgCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "org", Aliases: []string{"orgs"}, Short: "List organisations, the owners of Apps"}
	read := func(cmd *cobra.Command, f func(c *client.Client, all []*orgRow) error) error {
		c, err := e.connect()
		if err != nil {
			return err
		}
		apps, err := c.ListApps(cmd.Context(), "")
		if err != nil {
			return err
		}
		return f(c, orgs(apps))
	}
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List organisations", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return read(cmd, func(_ *client.Client, all []*orgRow) error {
				if e.asJSON {
					return e.printJSON(all)
				}
				rows := [][]string{}
				for _, o := range all {
					rows = append(rows, []string{o.Name, o.Slug, fmt.Sprint(len(o.Apps))})
				}
				return e.table([]string{"NAME", "SLUG", "APPS"}, rows)
			})
		},
	}
	show := &cobra.Command{
		Use: "show SLUG", Short: "Show an organisation and its Apps", Args: exactArgs("an organisation"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return read(cmd, func(c *client.Client, all []*orgRow) error {
				for _, o := range all {
					if o.Slug != args[0] {
						continue
					}
					if e.asJSON {
						return e.printJSON(o)
					}
					apps, err := c.ListApps(cmd.Context(), o.Slug)
					if err != nil {
						return err
					}
					return e.printApps(apps, true)
				}
				return gondola.Errorf(gondola.ErrNotFound, "there is no organisation %q: see gondola org list", args[0])
			})
		},
	}
	return group(cmd, list, show)
}
