package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gondola/internal/daemon"
)

// service makes `gondola up` a service of the host.
func (p *program) service() *cobra.Command {
	cmd := &cobra.Command{Use: "service", Short: "Run gondola up as a service of this host (systemd)"}
	cmd.AddCommand(p.serviceInstall(), &cobra.Command{
		Use: "uninstall", Short: "Take the service off this host; Machines run on, data stay", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.UninstallService(cmd.Context(), daemon.ServiceOptions{Say: say})
		},
	})
	return cmd
}

func (p *program) serviceInstall() *cobra.Command {
	var regions, listen []string
	var bare, onlyPrint bool
	cmd := &cobra.Command{
		Use: "install", Short: "Install the service, or upgrade it to this binary, and start it", Args: cobra.NoArgs,
		Long: "Copies this binary to " + daemon.ServiceExe + ", writes a systemd unit that runs `gondola up` with the flags given here, and starts it now and at\n" +
			"every boot. With a newer binary it is the upgrade: the daemon is restarted, Machines run on. Without any of the flags of gondola up a service that is\n" +
			"there keeps its own; with one of them it has those alone that are given.",
		Example: "  gondola service install\n  gondola service install --region fra --region ams",
		RunE: func(cmd *cobra.Command, _ []string) error {
			command, err := p.keptCommand(cmd)
			if err == nil && command == "" {
				var args []string
				if args, err = p.upArgs(cmd); err != nil {
					return err
				}
				for _, r := range regions {
					args = append(args, "--region", r)
				}
				for _, l := range listen {
					args = append(args, "--listen", l)
				}
				if bare {
					args = append(args, "--no-kubernetes")
				}
				command, err = daemon.ServiceCommand(args)
			}
			if err != nil {
				return err
			}
			if p.config != "" || !strings.Contains(command, " --config") {
				if _, err := p.load(cmd); err != nil { // better said now than in a log
					return err
				}
			}
			if onlyPrint {
				text, err := daemon.ServiceUnit(command)
				fmt.Fprint(cmd.OutOrStdout(), text)
				return err
			}
			return daemon.InstallService(cmd.Context(), daemon.ServiceOptions{Command: command, Say: say})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&regions, "region", nil, "as for gondola up")
	f.StringSliceVar(&listen, "listen", nil, "as for gondola up")
	f.BoolVar(&bare, "no-kubernetes", false, "as for gondola up")
	f.StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	f.BoolVar(&onlyPrint, "print", false, "only print the unit file")
	return cmd
}

// keptCommand is that of the service that is there, where none of the flags of `gondola up` is given: a newer binary runs the same installation in the
// same way. The environment is no flag: that of an administrator who upgrades is not that of the one who installed.
func (p *program) keptCommand(cmd *cobra.Command) (string, error) {
	for _, flag := range []string{"data", "config", "region", "listen", "no-kubernetes"} {
		if cmd.Flags().Changed(flag) {
			return "", nil
		}
	}
	command, err := daemon.InstalledCommand(p.unit)
	if command != "" {
		say("the service that is there keeps its flags: %s", command)
	}
	return command, err
}

// upArgs are --data and --config as the service needs them, which runs in another directory with another environment.
func (p *program) upArgs(cmd *cobra.Command) (args []string, err error) {
	f := cmd.Flags().Lookup("data")
	paths := map[string]string{"--config": p.config}
	if f.Changed || os.Getenv("GONDOLA_DATA") != "" {
		paths["--data"] = f.Value.String()
	}
	for _, flag := range []string{"--data", "--config"} {
		if paths[flag] == "" {
			continue
		}
		path, err := filepath.Abs(paths[flag])
		if err != nil {
			return nil, err
		}
		args = append(args, flag, path)
	}
	return args, nil
}
