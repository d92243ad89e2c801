package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/internal/cli"
	"gondola/internal/daemon"
	"gondola/internal/kube"
)

// token makes tokens for people and programs that should do less than everything.
func (p *program) token() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make tokens of the Machines API, for other machines and people"}
	cmd.AddCommand(p.tokenCreate(), p.tokenCA())
	return cmd
}

func (p *program) tokenCreate() *cobra.Command {
	var apps []string
	var o daemon.AccessOptions
	var life time.Duration
	cmd := &cobra.Command{
		Use: "create", Short: "Print a token", Args: cobra.NoArgs,
		Long: "Prints a token, good until it expires. With --app it reaches these apps only, with --org the apps of one organisation, with --read-only it changes\n" +
			"nothing and runs no command. What it may do is written in the token itself; whoever holds it can narrow it further, nobody can widen it.",
		Example: "  gondola token create --expires 24h\n  gondola token create --app shop --read-only",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			if life <= 0 {
				return cli.UsageErrorf("--expires %s: want a time ahead, such as 24h", life)
			}
			for _, a := range apps {
				o.Apps = append(o.Apps, gondola.AppName(a))
			}
			o.Expires = time.Now().Add(life)
			access, err := daemon.NewAccess(c, o)
			if err != nil {
				return err
			}
			fmt.Println(access.Token)
			if len(access.URLs) == 0 {
				say("it is good on this machine, with --token or GONDOLA_TOKEN; to let others in, start with: gondola up --listen ADDRESS")
				return nil
			}
			say("on another machine, with the certificate that `gondola token ca` prints here in gondola-ca.pem:")
			say("  export GONDOLA_API=%s GONDOLA_CA=gondola-ca.pem GONDOLA_TOKEN=…", strings.Join(access.URLs, " or "))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&apps, "app", nil, "only this app; several times")
	f.StringVar(&o.Org, "org", "", "only apps of this organisation")
	f.BoolVar(&o.ReadOnly, "read-only", false, "only to look")
	f.DurationVar(&life, "expires", 30*24*time.Hour, "how long it is good")
	f.StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}

func (p *program) tokenCA() *cobra.Command {
	return &cobra.Command{
		Use: "ca", Short: "Print the certificate that other machines have to trust", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			access, err := daemon.NewAccess(c, daemon.AccessOptions{})
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(access.CA)
			return err
		},
	}
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
