package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

// copying says how a clone differs from its original.
type copying struct {
	name, region, snapshot string
	attach, command        string
	clearCommand, stay     bool
	flags                  configFlags
	made                   []gondola.VolumeRef // for the clone
}

func (e *env) machineClone() *cobra.Command {
	var o copying
	var detach bool
	cmd := e.onMachine("clone", "Create another Machine like one that is there", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		req, err := o.request(m)
		if err != nil {
			return err
		}
		var clone gondola.Machine
		if err = o.disks(ctx, c, m, &req.Config); err == nil {
			clone, err = c.Create(ctx, m.Ref().App, req)
		}
		if err != nil {
			e.discard(ctx, c, o.made)
			return err
		}
		return e.launched(ctx, c, m.Ref().App, clone, req.Config.AutoDestroy, !detach)
	})
	cmd.Long = "Creates another Machine like one that is there, in its App. Where that one mounts a Volume, the new one gets an empty Volume of the same\n" +
		"name and size, or one that begins with a snapshot, or an existing one."
	cmd.Example = "  gondola machine clone web --region ams\n  gondola machine clone db --from-snapshot vs_4xp0y0x3oq1jw7ov"
	f := cmd.Flags()
	f.StringVarP(&o.name, "name", "n", "", "name (default: made up)")
	f.StringVarP(&o.region, "region", "r", "", "region, or several in order of preference (default: any)")
	f.StringVar(&o.attach, "attach-volume", "", "an existing Volume instead of a new one: VOLUME, or VOLUME:/path")
	f.StringVar(&o.snapshot, "from-snapshot", "", "id of a snapshot that the new Volume begins with; last is the last one")
	f.StringVar(&o.command, "override-cmd", "", "another command")
	f.BoolVar(&o.clearCommand, "clear-cmd", false, "the command of the image")
	f.BoolVar(&o.stay, "clear-auto-destroy", false, "do not destroy it when it has ended")
	f.BoolVarP(&detach, "detach", "d", false, "do not wait until it has started")
	o.flags.register(f)
	return cmd
}

// discard removes the Volumes of a clone that there is not, also after Ctrl-C, and names those that are left.
func (e *env) discard(ctx context.Context, c *client.Client, made []gondola.VolumeRef) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, v := range made {
		if _, err := c.PurgeVolume(ctx, v); err != nil {
			fmt.Fprintf(e.err, "volume %s, made for the clone, is left (%v): see gondola machine list, and remove it with gondola volume destroy --now %s\n", v.ID, err, v.ID)
		}
	}
}

// request is what creates the clone, still with the Volumes of the original.
func (o *copying) request(m gondola.Machine) (gondola.CreateRequest, error) {
	req := gondola.CreateRequest{Name: o.name, Region: o.region, Config: *m.Config}
	if o.clearCommand {
		req.Config.Init.Cmd = nil
	}
	if o.command != "" {
		words, err := plainWords("--override-cmd", o.command)
		if err != nil {
			return req, err
		}
		req.Config.Init.Cmd = words
	}
	if o.stay {
		req.Config.AutoDestroy = false
	}
	return req, o.flags.apply(&req.Config)
}

// disks gives the clone Volumes of its own for those that the original mounts.
func (o *copying) disks(ctx context.Context, c *client.Client, m gondola.Machine, config *gondola.Config) error {
	if o.flags.file != "" { // says it all
		return nil
	}
	if o.attach != "" {
		volume, path, _ := strings.Cut(o.attach, ":")
		if len(m.Config.Mounts) > 0 {
			path = cmp.Or(path, m.Config.Mounts[0].Path)
		}
		config.Mounts = nil
		return volumeMounts([]string{volume + ":" + path}, &config.Mounts)
	}
	if len(m.Config.Mounts) == 0 {
		if o.snapshot != "" {
			return gondola.Errorf(gondola.ErrInvalid, "--from-snapshot: machine %s mounts no volume", m.ID)
		}
		return nil
	}
	all, err := c.ListVolumes(ctx, m.Ref().App)
	if err != nil {
		return err
	}
	mounts := config.Mounts[len(m.Config.Mounts):] // those that flags have added
	for _, mount := range m.Config.Mounts {
		for _, v := range all {
			if v.AttachedMachine == nil || *v.AttachedMachine != m.ID || string(v.ID) != mount.Volume && v.Name != mount.Volume && v.Name != mount.Name {
				continue
			}
			made, err := o.copyOf(ctx, c, v)
			if err != nil {
				return err
			}
			o.made = append(o.made, refOf(made))
			mount.Volume = string(made.ID)
			break
		}
		mounts = append(mounts, mount)
	}
	config.Mounts = mounts
	return nil
}

// copyOf makes a Volume of the same name and size.
func (o *copying) copyOf(ctx context.Context, c *client.Client, v gondola.Volume) (gondola.Volume, error) {
	req := gondola.CreateVolumeRequest{Name: v.Name, Region: o.region, SizeGB: v.SizeGB, SnapshotID: o.snapshot, SnapshotRetention: &v.SnapshotRetention, AutoBackup: &v.AutoBackup}
	if o.snapshot == "last" {
		taken, err := c.ListSnapshots(ctx, refOf(v))
		if err != nil {
			return v, err
		}
		var last gondola.VolumeSnapshot
		for _, s := range taken {
			if s.CreatedAt.After(last.CreatedAt) {
				last = s
			}
		}
		if last.ID == "" {
			return v, gondola.Errorf(gondola.ErrNotFound, "volume %s has no snapshot: make one with gondola volume snapshot create %s", v.ID, v.ID)
		}
		req.SnapshotID = last.ID
	}
	if req.SnapshotID == "" && v.FSType == gondola.VolumeFSRaw {
		req.FSType = v.FSType
	}
	return c.CreateVolume(ctx, v.App, req)
}
