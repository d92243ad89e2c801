package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

func (e *env) volumeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Aliases: []string{"volumes", "vol"}, Short: "Make, list, extend and copy Volumes, the disks that outlive Machines"}
	return group(cmd, e.volumeCreate(), e.volumeList(), e.volumeShow(), e.volumeExtend(), e.volumeFork(), e.volumeUpdate(), e.volumeDestroy(), e.volumeRecover(), e.snapshotCommand())
}

// withVolume runs f with a client and the Volume that an argument names, in whatever App it is.
func (e *env) withVolume(ctx context.Context, arg string, f func(c *client.Client, v gondola.Volume) error) error {
	c, err := e.connect()
	if err != nil {
		return err
	}
	v, err := findVolume(ctx, c, arg)
	if err != nil {
		return err
	}
	return f(c, v)
}

// findVolume finds a Volume by its id, or by its name unless it is destroyed.
func findVolume(ctx context.Context, c *client.Client, arg string) (gondola.Volume, error) {
	all, err := c.ListVolumes(ctx, "")
	if err != nil {
		return gondola.Volume{}, err
	}
	return meant("volume", arg, all, func(v gondola.Volume) (string, string) {
		if v.State == gondola.VolumePendingDestroy {
			return string(v.ID), string(v.ID)
		}
		return string(v.ID), v.Name
	})
}

func refOf(v gondola.Volume) gondola.VolumeRef { return gondola.VolumeRef{App: v.App, ID: v.ID} }

func (e *env) volumeCreate() *cobra.Command {
	var app, region, snapshot, source, fsType string
	var size, retention int
	var unique, backup bool
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a Volume", Args: exactArgs("a name"),
		Example: "  gondola volume create data --size 10\n  gondola volume create copy --from vol_4xp0y0x3oq1jw7ov",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			req := gondola.CreateVolumeRequest{Name: args[0], Region: region, SizeGB: size, SnapshotID: snapshot, FSType: fsType, RequireUniqueZone: &unique, AutoBackup: &backup}
			if retention > 0 {
				req.SnapshotRetention = &retention
			}
			if source != "" {
				of, err := findVolume(ctx, c, source)
				if err != nil {
					return err
				}
				req.SourceVolume, app = of.ID, string(of.App)
			}
			if err := ensureApp(ctx, c, app); err != nil {
				return err
			}
			return e.makeVolume(ctx, c, gondola.AppName(app), req)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&app, "app", "a", "default", "App of the Volume, made when it is not there")
	f.StringVarP(&region, "region", "r", "", "region, or several in order of preference: fra,ams (default: any)")
	f.IntVarP(&size, "size", "s", 0, "size in GB (default: 3, or that of what it is a copy of)")
	f.StringVar(&snapshot, "snapshot", "", "id of a snapshot to begin with")
	f.StringVar(&source, "from", "", "Volume to copy")
	f.StringVar(&fsType, "fstype", "", "ext4, or raw for one file of the Volume's size in the place of the mount (default: ext4, or that of what it is a copy of)")
	f.IntVar(&retention, "snapshot-retention", 0, "days that snapshots are kept (default: 5)")
	f.BoolVar(&unique, "require-unique-zone", false, "on another host than the App's Volumes of this name")
	f.BoolVar(&backup, "auto-backup", false, "make a snapshot every day")
	return cmd
}

func (e *env) makeVolume(ctx context.Context, c *client.Client, app gondola.AppName, req gondola.CreateVolumeRequest) error {
	defer e.progress("making volume " + req.Name)()
	v, err := c.CreateVolume(ctx, app, req)
	if err != nil {
		return err
	}
	return e.printVolume(v)
}

// ensureApp makes an App when it is not there; to use one that is there takes less than to make one.
func ensureApp(ctx context.Context, c *client.Client, app string) error {
	_, err := c.App(ctx, gondola.AppName(app))
	if isKind(err, gondola.ErrNotFound) {
		_, err = c.CreateApp(ctx, gondola.NewApp{Name: gondola.AppName(app)})
	}
	if isKind(err, gondola.ErrNameTaken) { // somebody else was faster
		return nil
	}
	return err
}

func (e *env) volumeList() *cobra.Command {
	var app string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List Volumes", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			all, err := c.ListVolumes(cmd.Context(), gondola.AppName(app))
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(orEmpty(all))
			}
			rows := [][]string{}
			for _, v := range all {
				rows = append(rows, []string{string(v.ID), v.Name, string(v.State), fmt.Sprintf("%d GB", v.SizeGB), used(v), string(v.Region), string(v.Worker), attached(v), string(v.App)})
			}
			return e.table([]string{"ID", "NAME", "STATE", "SIZE", "USED", "REGION", "WORKER", "MACHINE", "APP"}, rows)
		},
	}
	cmd.Flags().StringVarP(&app, "app", "a", "", "only this App's")
	return cmd
}

func used(v gondola.Volume) string {
	if v.BytesTotal == 0 {
		return "-"
	}
	return fmt.Sprintf("%d %%", 100*v.BytesUsed/v.BytesTotal)
}

func attached(v gondola.Volume) string {
	switch {
	case v.HostStatus == "unreachable":
		return "unreachable"
	case v.AttachedMachine == nil:
		return "-"
	}
	return string(*v.AttachedMachine)
}

func (e *env) printVolume(v gondola.Volume) error {
	if e.asJSON {
		return e.printJSON(v)
	}
	rows := [][]string{{"id", string(v.ID)}, {"name", v.Name}, {"app", string(v.App)}, {"state", string(v.State)}, {"size", fmt.Sprintf("%d GB", v.SizeGB)},
		{"used", used(v)}, {"file system", v.FSType}, {"region", string(v.Region)}, {"worker", string(v.Worker)}, {"machine", attached(v)},
		{"snapshots kept", kept(v.SnapshotRetention)}, {"daily snapshot", fmt.Sprint(v.AutoBackup)}, {"created", v.CreatedAt.Format(time.RFC3339)}}
	return e.table([]string{"VOLUME", string(v.ID)}, rows[1:])
}

// kept says how long snapshots are.
func kept(days int) string {
	if days == 0 {
		return "until deleted"
	}
	return fmt.Sprintf("%d days", days)
}

func (e *env) volumeShow() *cobra.Command {
	return &cobra.Command{
		Use: "show VOLUME", Aliases: []string{"get"}, Short: "Show a Volume, by its id or name", Args: exactArgs("a volume"), ValidArgsFunction: e.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withVolume(cmd.Context(), args[0], func(_ *client.Client, v gondola.Volume) error { return e.printVolume(v) })
		},
	}
}

func (e *env) volumeExtend() *cobra.Command {
	var size int
	cmd := &cobra.Command{
		Use: "extend VOLUME --size GB", Short: "Make a Volume larger, in use too", Args: exactArgs("a volume"), ValidArgsFunction: e.completeVolume,
		Example: "  gondola volume extend data --size 20",
		RunE: func(cmd *cobra.Command, args []string) error {
			if size <= 0 {
				return UsageErrorf("volume extend wants the new size, such as: --size 20")
			}
			return e.withVolume(cmd.Context(), args[0], func(c *client.Client, v gondola.Volume) error {
				out, err := c.ExtendVolume(cmd.Context(), refOf(v), size)
				if err != nil {
					return err
				}
				line := fmt.Sprintf("%s has %d GB", v.ID, out.Volume.SizeGB)
				if out.NeedsRestart && out.Volume.AttachedMachine != nil {
					line += fmt.Sprintf("; its Machine sees that after: gondola machine restart %s", *out.Volume.AttachedMachine)
				}
				return e.done(out, line)
			})
		},
	}
	cmd.Flags().IntVarP(&size, "size", "s", 0, "new size in GB")
	return cmd
}

func (e *env) volumeDestroy() *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use: "destroy VOLUME...", Aliases: []string{"rm", "delete"}, Short: "Destroy Volumes; for a day they can be recovered, and their snapshots stay", Args: minArgs("a volume"),
		Example: "  gondola volume destroy vol_4xp0y0x3oq1jw7ov", ValidArgsFunction: e.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				err := e.withVolume(cmd.Context(), arg, func(c *client.Client, v gondola.Volume) error {
					remove, line := c.DeleteVolume, " destroyed; within a day, unless its room is wanted, it comes back with: gondola volume recover "+string(v.ID)
					if now {
						remove, line = c.PurgeVolume, " destroyed with its data"
					}
					gone, err := remove(cmd.Context(), refOf(v))
					if err != nil {
						return err
					}
					return e.done(gone, string(v.ID)+line)
				})
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "with the data, at once; destroyed ones too")
	cmd.Flags().BoolP("yes", "y", false, "accepted for those who are used to it: this never asks")
	return cmd
}

func (e *env) volumeRecover() *cobra.Command {
	return &cobra.Command{
		Use: "recover VOLUME", Short: "Bring a destroyed Volume back, by its id", Args: exactArgs("the id of a volume"), ValidArgsFunction: e.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withVolume(cmd.Context(), args[0], func(c *client.Client, v gondola.Volume) error {
				back, err := c.RecoverVolume(cmd.Context(), refOf(v))
				if err != nil {
					return err
				}
				return e.done(back, string(v.ID)+" is back")
			})
		},
	}
}

func (e *env) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Aliases: []string{"snapshots"}, Short: "Make, list and delete snapshots of Volumes"}
	create := &cobra.Command{
		Use: "create VOLUME", Short: "Keep a copy of a Volume as it is now", Args: exactArgs("a volume"), ValidArgsFunction: e.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withVolume(cmd.Context(), args[0], func(c *client.Client, v gondola.Volume) error {
				defer e.progress("copying " + args[0])()
				s, err := c.SnapshotVolume(cmd.Context(), refOf(v), "")
				if err != nil {
					return err
				}
				return e.done(s, s.ID+" created")
			})
		},
	}
	list := &cobra.Command{
		Use: "list VOLUME", Aliases: []string{"ls"}, Short: "List the snapshots of a Volume", Args: exactArgs("a volume"), ValidArgsFunction: e.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withVolume(cmd.Context(), args[0], func(c *client.Client, v gondola.Volume) error {
				all, err := c.ListSnapshots(cmd.Context(), refOf(v))
				if err != nil {
					return err
				}
				if e.asJSON {
					return e.printJSON(orEmpty(all))
				}
				rows := [][]string{}
				for _, s := range all {
					rows = append(rows, []string{s.ID, s.Status, fmt.Sprintf("%d MB", s.Size>>20), s.CreatedAt.Format(time.RFC3339), kept(s.RetentionDays)})
				}
				return e.table([]string{"ID", "STATUS", "SIZE", "CREATED", "KEPT"}, rows)
			})
		},
	}
	var app string
	remove := &cobra.Command{
		Use: "delete SNAPSHOT", Aliases: []string{"rm", "destroy"}, Short: "Delete a snapshot", Args: exactArgs("a snapshot"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			if err := c.DeleteSnapshot(cmd.Context(), gondola.VolumeRef{App: gondola.AppName(app)}, args[0]); err != nil {
				return err
			}
			return e.done(map[string]string{"id": args[0], "status": "deleted"}, args[0]+" deleted")
		},
	}
	remove.Flags().StringVarP(&app, "app", "a", "default", "App of the snapshot")
	return group(cmd, create, list, remove)
}

// completeVolume offers the ids of Volumes to the shell, each with its name.
func (e *env) completeVolume(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	c, err := e.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, _ := c.ListVolumes(ctx, "")
	var out []string
	for _, v := range all {
		out = append(out, cobra.CompletionWithDesc(string(v.ID), v.Name))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// volumeMounts reads --volume arguments: VOLUME:/path, VOLUME:/path:ro.
func volumeMounts(args []string, to *[]gondola.VolumeMount) error {
	for _, a := range args {
		parts := strings.Split(a, ":")
		ro := len(parts) == 3 && parts[2] == "ro"
		if len(parts) != 2 && !ro || parts[0] == "" || !strings.HasPrefix(parts[1], "/") {
			return UsageErrorf("--volume %q: want VOLUME:/path, or VOLUME:/path:ro", a)
		}
		m := gondola.VolumeMount{Volume: parts[0], Path: parts[1]}
		if ro {
			m.Gondola = &gondola.VolumeMountExtension{ReadOnly: true}
		}
		*to = append(*to, m)
	}
	return nil
}
