package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"gondola"
)

// UpFile is the file in the data directory in which a running platform says where it is; `status --json` prints it.
const UpFile = "up.json"

// Up is the content of UpFile.
type Up struct {
	API       string           `json:"api"`        // URL
	TokenFile string           `json:"token_file"` // path
	Regions   []gondola.Region `json:"regions"`
	Clusters  []UpCluster      `json:"clusters"`
	PID       int              `json:"pid,omitempty"`
}

// UpCluster is a Kubernetes cluster of the platform.
type UpCluster struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"` // path
	Server     string `json:"server,omitempty"`
}

func readUp(data string) (Up, error) {
	b, err := os.ReadFile(filepath.Join(data, UpFile))
	if errors.Is(err, os.ErrPermission) {
		return Up{}, fmt.Errorf("%s cannot be read: use sudo, or pass --api and --token", data)
	}
	if err != nil {
		return Up{}, fmt.Errorf("no platform in %s: start one with: gondola up", data)
	}
	var u Up
	if err := json.Unmarshal(b, &u); err != nil {
		return Up{}, fmt.Errorf("%s: %w", filepath.Join(data, UpFile), err)
	}
	return u, nil
}

func (e *env) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what runs: API, regions, clusters, Machines",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := readUp(e.data)
			if err != nil {
				return err
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			auction, err := c.Ask(cmd.Context(), gondola.Ask{})
			if err != nil {
				return fmt.Errorf("%s does not answer (%w): start it with: gondola up", u.API, err)
			}
			if e.asJSON {
				u.PID = 0
				return e.printJSON(u)
			}
			fmt.Fprintf(e.out, "API        %s\nToken      %s\n", u.API, u.TokenFile)
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
			_, err := fmt.Fprintln(e.out, "gondola", strings.TrimPrefix(version, "gondola "), runtime.GOOS+"/"+runtime.GOARCH)
			return err
		},
	}
}
