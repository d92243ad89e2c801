package main

import (
	"github.com/spf13/cobra"

	"gondola/internal/cli"
	"gondola/internal/daemon"
)

func (p *program) backup() *cobra.Command {
	var bare bool
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Write platform, cluster, images and volumes to one file, while they run", Args: cobra.MaximumNArgs(1),
		Example: "  gondola backup /mnt/backup/gondola-$(date +%F).tar.zst",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.UsageErrorf("gondola backup wants a file to write, such as: gondola backup gondola.tar.zst")
			}
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			o := daemon.BackupOptions{Config: c, Version: p.version, To: args[0], Say: say}
			if !bare {
				if o.Volumes, err = daemon.Connect(c); err != nil {
					return err
				}
			}
			return daemon.Backup(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&bare, "without-volumes", false, "leave the data of volumes out")
	cmd.Flags().StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}

func (p *program) restore() *cobra.Command {
	var replace bool
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Bring a backup back into an empty data directory", Args: cobra.MaximumNArgs(1),
		Example: "  gondola restore gondola.tar.zst && gondola up",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.UsageErrorf("gondola restore wants a file that gondola backup wrote, such as: gondola restore gondola.tar.zst")
			}
			c, err := p.load(cmd)
			if err != nil {
				return err
			}
			return daemon.Restore(cmd.Context(), daemon.RestoreOptions{Config: c, From: args[0], Replace: replace, Say: say})
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "end first what is left on this host of the same installation: its Machines are killed")
	cmd.Flags().StringVar(&p.config, "config", "", "config file (default "+daemon.DefaultConfigFile+" if it is there)")
	return cmd
}
