package cli

import (
	"cmp"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

// volumeFork copies a Volume, as volume create --from does.
func (e *env) volumeFork() *cobra.Command {
	var name, region string
	cmd := &cobra.Command{
		Use: "fork VOLUME", Short: "Make another Volume with what is on one now", Args: exactArgs("a volume"), ValidArgsFunction: e.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withVolume(cmd.Context(), args[0], func(c *client.Client, v gondola.Volume) error {
				return e.makeVolume(cmd.Context(), c, v.App, gondola.CreateVolumeRequest{Name: cmp.Or(name, v.Name), Region: region, SourceVolume: v.ID})
			})
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "name (default: that of the other)")
	cmd.Flags().StringVarP(&region, "region", "r", "", "region (default: any that can)")
	return cmd
}

func (e *env) volumeUpdate() *cobra.Command {
	var retention int
	var backup bool
	cmd := &cobra.Command{
		Use: "update VOLUME", Short: "Change how the snapshots of a Volume are made and kept", Args: exactArgs("a volume"), ValidArgsFunction: e.completeVolume,
		Example: "  gondola volume update data --snapshot-retention 14",
		RunE: func(cmd *cobra.Command, args []string) error {
			var req gondola.UpdateVolumeRequest
			if f := cmd.Flags(); f.Changed("snapshot-retention") {
				req.SnapshotRetention = &retention
			}
			if f := cmd.Flags(); f.Changed("auto-backup") || f.Changed("scheduled-snapshots") {
				req.AutoBackup = &backup
			}
			if req == (gondola.UpdateVolumeRequest{}) {
				return UsageErrorf("volume update wants what to change, such as: --snapshot-retention 14")
			}
			return e.withVolume(cmd.Context(), args[0], func(c *client.Client, v gondola.Volume) error {
				changed, err := c.UpdateVolume(cmd.Context(), refOf(v), req)
				if err != nil {
					return err
				}
				return e.printVolume(changed)
			})
		},
	}
	cmd.Flags().IntVar(&retention, "snapshot-retention", 0, "days that snapshots are kept")
	cmd.Flags().BoolVar(&backup, "auto-backup", false, "make a snapshot every day")
	cmd.Flags().BoolVar(&backup, "scheduled-snapshots", false, "the same")
	return cmd
}
