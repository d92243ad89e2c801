package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gondola/internal/daemon"
	"gondola/internal/kube"
)

// tokenCA is the part of `gondola token` that looks into the data directory.
func (p *program) tokenCA() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "Print the certificate that other machines have to trust", Args: cobra.NoArgs,
		Long:    "Prints, on the machine that runs gondola, the certificate by which other machines know it.",
		Example: "  gondola token ca > gondola-ca.pem",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			access, err := daemon.RemoteAccess(c)
			if err != nil {
				return err
			}
			if len(access.URLs) == 0 {
				say("other machines do not reach this one yet: start it with: gondola up --listen ADDRESS")
			} else {
				say("on another machine, with this in gondola-ca.pem and a token of `gondola token create`:")
				say("  export GONDOLA_API=%s GONDOLA_CA=gondola-ca.pem GONDOLA_TOKEN=…", strings.Join(access.URLs, " or "))
			}
			_, err = os.Stdout.Write(access.CA)
			return err
		},
	}
	cmd.Flags().StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}

// kubeconfig prints the administrator's kubeconfig, for this machine or another.
func (p *program) kubeconfig() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use: "kubeconfig", Short: "Print the kubeconfig of the cluster's administrator", Args: cobra.NoArgs,
		Example: "  gondola kubeconfig --address 192.0.2.10 > gondola.kubeconfig",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			c, err = daemon.Complete(c)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(filepath.Join(c.Data, "clusters", c.Cluster, "kubeconfig"))
			if err != nil {
				return fmt.Errorf("no cluster %s in %s: start it with: gondola up", c.Cluster, c.Data)
			}
			if address != "" {
				if b, err = kube.WithServer(b, "https://"+net.JoinHostPort(address, strconv.Itoa(c.KubernetesPort))); err != nil {
					return err
				}
			}
			_, err = os.Stdout.Write(b)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&address, "address", "", "for another machine, which reaches this one here: an address of gondola up --listen, or a name of tlsNames")
	f.StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}

// onlyKubeconfig returns the path of the administrator's kubeconfig where a data directory has one cluster and this user may read it, else "".
func onlyKubeconfig(data string) string {
	paths, _ := filepath.Glob(filepath.Join(data, "clusters", "*", "kubeconfig"))
	if len(paths) != 1 {
		return ""
	}
	f, err := os.Open(paths[0])
	if err != nil {
		return ""
	}
	f.Close()
	return paths[0]
}
