package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"gondola"
)

func (e *env) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what runs: API, regions, clusters, Machines",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, _, err := e.reach()
			if err != nil {
				return err
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			auction, err := c.Ask(cmd.Context(), gondola.Ask{})
			if isKind(err, gondola.ErrUnavailable) {
				return fmt.Errorf("%s does not answer (%v): start it with: gondola up", u.API, err)
			}
			if err != nil {
				return err
			}
			if e.asJSON {
				if u.Regions == nil { // of another machine's
					regions, err := c.Regions(cmd.Context())
					if err != nil {
						return err
					}
					for _, r := range regions {
						u.Regions = append(u.Regions, r.Code)
					}
				}
				u.Clusters = orEmpty(u.Clusters)
				return e.printJSON(u)
			}
			fmt.Fprintf(e.out, "API        %s\n", u.API)
			if u.TokenFile != "" {
				fmt.Fprintf(e.out, "Token      %s\n", u.TokenFile)
			}
			for _, k := range u.Clusters {
				fmt.Fprintf(e.out, "Cluster    %s  %s  (kubectl --kubeconfig %s)\n", k.Name, k.Server, k.Kubeconfig)
			}
			machines, err := c.List(cmd.Context(), "", gondola.ListFilter{})
			if err != nil {
				return err
			}
			count := map[gondola.Region]int{}
			for _, m := range machines {
				count[m.Region]++
			}
			rows := [][]string{}
			for _, b := range auction.Bids {
				rows = append(rows, []string{string(b.Region), fmt.Sprint(count[b.Region]), b.Free.String(), b.Capacity.String()})
			}
			for _, r := range auction.Refusals {
				rows = append(rows, []string{string(r.Region), fmt.Sprint(count[r.Region]), r.Reason, r.Capacity.String()})
			}
			fmt.Fprintln(e.out)
			return e.table([]string{"REGION", "MACHINES", "FREE", "CAPACITY"}, rows)
		},
	}
}

func (e *env) versionCommand(version string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			if e.asJSON {
				return e.printJSON(map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprintln(e.out, "gondola", version, runtime.GOOS+"/"+runtime.GOARCH)
			return err
		},
	}
}
