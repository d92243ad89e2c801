package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/internal/cli"
	"gondola/internal/daemon"
	"gondola/internal/kube"
	"gondola/internal/kube/kubectl"
)

// program holds what the commands that start things share.
type program struct {
	version string
	config  string // --config
	unit    string // file of the service that is there, if one is
}

// dataDir is where --data points when it is not given: every command looks where `up` does.
func dataDir() string {
	if d := os.Getenv("GONDOLA_DATA"); d != "" {
		return d
	}
	if c, err := daemon.LoadConfig(daemon.DefaultConfigFile, true); err == nil && c.Data != "" {
		return c.Data
	}
	return daemon.DefaultData
}

func (p *program) commands() []*cobra.Command {
	return []*cobra.Command{p.up(), p.down(), p.doctor(), p.service(), p.backup(), p.restore(), p.kubeconfig(), kubectlCommand()}
}

// kubectlCommand is kubectl, to which signals are what they are to kubectl itself.
func kubectlCommand() *cobra.Command {
	var c *cobra.Command
	c = kubectl.Command(func() string { return onlyKubeconfig(c.Root().PersistentFlags().Lookup("data").Value.String()) })
	before := c.PersistentPreRunE
	c.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		signal.Reset(os.Interrupt, syscall.SIGTERM) // its commands do not look at our context: Ctrl-C has to end them
		return before(cmd, args)
	}
	return c
}

// load reads the config file and lays the flags over it.
func (p *program) load(cmd *cobra.Command) (daemon.Config, error) {
	path, optional := p.config, false
	if path == "" {
		path, optional = daemon.DefaultConfigFile, true
	}
	c, err := daemon.LoadConfig(path, optional)
	if err != nil {
		return c, err
	}
	if f := cmd.Flags().Lookup("data"); f.Changed || c.Data == "" || os.Getenv("GONDOLA_DATA") != "" {
		c.Data = f.Value.String()
	}
	return c, nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (p *program) up() *cobra.Command {
	var regions, listen, pools, drivers []string
	var fallback string
	var nodes int
	var bare bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the platform and a Kubernetes cluster on this host",
		Long: "Starts the Machines platform with one worker per region and a Kubernetes cluster on it, merges a context into your kubeconfig and runs\n" +
			"until Ctrl-C. Machines run on then; gondola up takes them back.",
		Example: "  gondola up\n  gondola up --region fra --region ams",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			if len(regions) > 0 {
				c.Regions = nil
				for _, r := range regions {
					c.Regions = append(c.Regions, gondola.Region(r))
				}
			}
			if len(listen) > 0 {
				c.Listen = listen
			}
			for _, d := range drivers {
				c.Allow(d)
			}
			if fallback != "" {
				c.Allow(fallback)
				c.FallbackDriver = fallback
			}
			if cmd.Flags().Changed("nodes-per-region") {
				if nodes < 1 {
					return cli.UsageErrorf("--nodes-per-region %d: want at least 1", nodes)
				}
				c.NodesPerRegion = nodes
			}
			if len(pools) > 0 {
				c.LoadBalancerPools = pools
			}
			o := daemon.Options{Config: c, Version: p.version, Pilot: asset("pilot.gz"), Hello: asset("hello.gz"), MergeKubeconfig: kube.MergeKubeconfig, RenewKubeconfig: kube.RenewKubeconfig, Say: say}
			if !bare {
				o.NewCluster = newCluster
			}
			return daemon.Up(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&regions, "region", nil, "a region, its worker sharing this host with the others; several times (default: those of the last time, else local)")
	f.StringSliceVar(&listen, "listen", nil, "an address of this host on which other machines reach both APIs, by TLS and token; several times (default: none)")
	f.StringSliceVar(&drivers, "allow-driver", nil, "a driver that Machines and Pods may ask for beside the default: runc, for trusted work at the host's own speed")
	f.StringVar(&fallback, "fallback-driver", "", "a driver for Pods that name none and ask for what the default cannot give, such as sysctls: runc, for trusted work (default: refuse them)")
	f.IntVar(&nodes, "nodes-per-region", 0, "virtual Kubernetes nodes per region (default 1)")
	f.StringSliceVar(&pools, "lb-pool", nil, "addresses for Services of type LoadBalancer, such as 192.0.2.0/28; several times (default: the host's own)")
	f.BoolVar(&bare, "no-kubernetes", false, "only the Machines platform")
	f.StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}

func (p *program) down() *cobra.Command {
	var purge bool
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the daemon and every Machine; with --purge remove everything", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			return daemon.Down(cmd.Context(), daemon.DownOptions{Config: c, Version: p.version, Pilot: asset("pilot.gz"), Purge: purge, Say: say,
				RemoveKubeconfig: kube.RemoveFromKubeconfig})
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "remove everything that gondola made on this host, data included")
	cmd.Flags().StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}

func (p *program) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check whether this host has what Gondola needs", Args: cobra.NoArgs,
		Long: "Checks whether this host has what Gondola needs, by trying it. FAIL is what gondola up cannot do without; its exit code is then 1.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			checks := daemon.Checks(c)
			asJSON, err := cmd.Flags().GetBool("json")
			if err != nil {
				return err
			}
			if err := printChecks(checks, asJSON); err != nil {
				return err
			}
			if slices.ContainsFunc(checks, func(c daemon.Check) bool { return !c.OK && c.Required }) {
				return cli.ExitCode(1)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}

// finding is a Check as JSON.
type finding struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"`
	Detail   string `json:"detail"`
	Remedy   string `json:"remedy,omitempty"`
}

func printChecks(checks []daemon.Check, asJSON bool) error {
	if asJSON {
		out := []finding{}
		for _, c := range checks {
			out = append(out, finding(c))
		}
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	}
	for _, c := range checks {
		mark := "ok  "
		if !c.OK && c.Required {
			mark = "FAIL"
		} else if !c.OK {
			mark = "note"
		}
		fmt.Printf("%s  %-22s %s\n", mark, c.Name, c.Detail)
		if !c.OK && c.Remedy != "" {
			fmt.Printf("      %s\n", c.Remedy)
		}
	}
	return nil
}

// newCluster joins the daemon with Kubernetes.
func newCluster(c daemon.ClusterConfig) (daemon.Cluster, error) {
	if !c.Address.IsValid() {
		return nil, errors.New("cluster without an address")
	}
	nodes := make([]kube.NodeConfig, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		nodes = append(nodes, kube.NodeConfig{Name: n.Name, Region: n.Region, Addresses: n.Addresses, Gateway: n.Gateway, Listen: n.Listen})
	}
	return kube.New(kube.Config{
		Name: c.Name, Dir: c.Dir, Address: c.Address, AddressV6: c.AddressV6, Names: c.Names, Port: c.Port, ServiceCIDRs: c.ServiceCIDRs, Nodes: nodes,
		Platform: c.Platform, Apps: c.Apps, PodStarted: c.PodStarted, Renewed: c.Renewed, Network: c.Network, Drivers: c.Drivers, FallbackDriver: c.FallbackDriver, Progress: func(step string, took time.Duration) { c.Say(step, took) }, Log: c.Log,
	})
}
