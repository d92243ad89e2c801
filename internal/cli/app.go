package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gondola"
)

// done prints what a command did: a line, or with --json an object.
func (e *env) done(object any, line string) error {
	if e.asJSON {
		return e.printJSON(object)
	}
	_, err := fmt.Fprintln(e.out, line)
	return err
}

func isKind(err, kind error) bool { return errors.Is(err, kind) }

func (e *env) appCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "app", Aliases: []string{"apps"}, Short: "Make and list Apps, the groups of Machines"}
	var network, org, listOrg string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make an App", Args: exactArgs("a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			a, err := c.CreateApp(cmd.Context(), gondola.NewApp{Name: gondola.AppName(args[0]), Org: org, Network: network})
			if err != nil {
				return err
			}
			return e.printApps([]gondola.App{a}, false)
		},
	}
	create.Flags().StringVar(&network, "network", "", "network of its own; Machines of different networks cannot reach each other")
	create.Flags().StringVarP(&org, "org", "o", "", "organisation that owns it (default: the token's own, "+gondola.Org+" if it has none)")
	show := &cobra.Command{
		Use: "show NAME", Aliases: []string{"status"}, Short: "Show an App", Args: exactArgs("a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			a, err := c.App(cmd.Context(), gondola.AppName(args[0]))
			if err != nil {
				return err
			}
			return e.printApps([]gondola.App{a}, false)
		},
	}
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List Apps", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			apps, err := c.ListApps(cmd.Context(), listOrg)
			if err != nil {
				return err
			}
			return e.printApps(apps, true)
		},
	}
	list.Flags().StringVarP(&listOrg, "org", "o", "", "only this organisation's (default: all that the token reaches)")
	destroy := &cobra.Command{
		Use: "destroy NAME", Aliases: []string{"rm", "delete"}, Short: "Destroy an App and all its Machines", Args: exactArgs("a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			defer e.progress("destroying " + args[0])()
			if err := c.DeleteApp(cmd.Context(), gondola.AppName(args[0])); err != nil {
				return err
			}
			return e.done(map[string]string{"name": args[0], "status": "destroyed"}, args[0]+" destroyed")
		},
	}
	return group(cmd, create, list, show, destroy)
}

func (e *env) printApps(apps []gondola.App, many bool) error {
	if e.asJSON {
		if !many {
			return e.printJSON(apps[0])
		}
		return e.printJSON(orEmpty(apps))
	}
	rows := [][]string{}
	for _, a := range apps {
		rows = append(rows, []string{string(a.Name), a.Organization.Slug, a.Network, a.Status, fmt.Sprint(a.MachineCount)})
	}
	return e.table([]string{"NAME", "ORG", "NETWORK", "STATUS", "MACHINES"}, rows)
}
