package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gondola"
)

const app = gondola.AppName("crash")

// request is the Machine of most operations: it mounts a Volume and files, and notes in the Volume what it finds.
func (c *crashed) request(image string) gondola.CreateRequest {
	stop := gondola.Duration(time.Second)
	return gondola.CreateRequest{Name: "m", Config: gondola.Config{
		Mounts:  []gondola.VolumeMount{{Volume: string(c.ids.data), Name: "data"}},
		Volumes: []gondola.TempVolume{{Name: "files"}},
		Containers: []gondola.Container{{Name: "main", Image: image, Stop: &gondola.StopConfig{Timeout: &stop},
			Restart: &gondola.RestartPolicy{Policy: "always"},
			Mounts:  []gondola.ContainerMount{{Name: "data", Path: "/data"}, {Name: "files", Path: "/files"}}}},
		Gondola: &gondola.ConfigExtension{Driver: c.driver},
	}, Gondola: &gondola.CreateExtension{Payload: files("old")}}
}

func files(word string) *gondola.Payload {
	return &gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"files": {{Path: "word", Data: []byte(word)}}}}
}

func (c *crashed) makeVolume() error {
	_, err := c.api.CreateVolume(c.ctx, app, gondola.CreateVolumeRequest{Name: "data", SizeGB: 1, ID: c.ids.data})
	return err
}

func (c *crashed) create(ctx context.Context) error {
	_, err := c.api.Create(ctx, app, c.request("gondola.local/hello"))
	return err
}

func (c *crashed) makeMachine() error {
	if err := errors.Join(c.makeVolume(), c.create(c.ctx)); err != nil {
		return err
	}
	if err := c.await(running("old")); err != nil {
		return err
	}
	_, err := c.exec(c.ctx, "echo kept > /data/word; sync")
	c.kept = true
	return err
}

func (c *crashed) makeStopped() error {
	if err := errors.Join(c.makeMachine(), c.stopMachine(c.ctx)); err != nil {
		return err
	}
	return c.await(isState(gondola.Stopped))
}

// machine returns the Machine named m, an error if there is not exactly one.
func (c *crashed) machine(ctx context.Context) (gondola.Machine, error) {
	all, err := c.api.List(ctx, app, gondola.ListFilter{})
	if err != nil {
		return gondola.Machine{}, err
	}
	if len(all) != 1 || all[0].Name != "m" {
		return gondola.Machine{}, fmt.Errorf("%w: there are %d machines, want one", gondola.ErrNotFound, len(all))
	}
	return all[0], nil
}

// on calls f with the Machine.
func (c *crashed) on(ctx context.Context, f func(ref gondola.Ref) error) error {
	m, err := c.machine(ctx)
	if err != nil {
		return err
	}
	return f(gondola.Ref{App: app, ID: m.ID})
}

func (c *crashed) exec(ctx context.Context, script string) (out string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = c.on(ctx, func(ref gondola.Ref) error {
		res, err := c.api.Exec(ctx, ref, gondola.ExecRequest{Command: []string{"sh", "-c", script}})
		out = res.Stdout
		if err == nil && res.ExitCode != 0 {
			err = fmt.Errorf("exit %d: %s", res.ExitCode, res.Stderr)
		}
		return err
	})
	return out, err
}

func (c *crashed) stopMachine(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error { return c.api.Stop(ctx, ref, gondola.StopRequest{}) })
}

func (c *crashed) startMachine(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error { _, err := c.api.Start(ctx, ref); return err })
}

func (c *crashed) suspend(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error { return c.api.Suspend(ctx, ref) })
}

func (c *crashed) makeSuspended() error {
	if err := errors.Join(c.makeMachine(), c.suspend(c.ctx)); err != nil {
		return err
	}
	return c.await(isState(gondola.Suspended))
}

// makeUnusable makes a suspended Machine whose snapshot is damaged.
func (c *crashed) makeUnusable() error {
	if err := c.makeSuspended(); err != nil {
		return err
	}
	return c.on(c.ctx, func(ref gondola.Ref) error {
		states, err := filepath.Glob(filepath.Join(c.data, "machines", string(ref.ID), "snapshot", "checkpoint.img"))
		if err != nil || len(states) != 1 {
			return fmt.Errorf("snapshots of machine %s are %v, %v", ref.ID, states, err)
		}
		return os.Truncate(states[0], 1000)
	})
}

func (c *crashed) restart(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error { return c.api.Restart(ctx, ref, gondola.RestartRequest{}) })
}

func (c *crashed) update(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error {
		req := c.request("gondola.local/hello")
		req.Config.Containers[0].Env = map[string]string{"WORD": "updated"}
		_, err := c.api.Update(ctx, ref, gondola.UpdateRequest{CreateRequest: req})
		return err
	})
}

func (c *crashed) updated(ctx context.Context) string {
	if wrong := running("old")(c, ctx); wrong != "" {
		return wrong
	}
	if out, err := c.exec(ctx, "echo $WORD"); err != nil || out != "updated\n" {
		return fmt.Sprintf("WORD is %q, %v", out, err)
	}
	return ""
}

func (c *crashed) destroy(ctx context.Context) error {
	err := c.on(ctx, func(ref gondola.Ref) error { return c.api.Destroy(ctx, ref, true) })
	if errors.Is(err, gondola.ErrNotFound) {
		return nil // it was destroyed, only the answer got lost
	}
	return err
}

func (c *crashed) destroyed(ctx context.Context) string {
	all, err := c.api.List(ctx, app, gondola.ListFilter{})
	if err != nil || len(all) > 0 {
		return fmt.Sprintf("machines are %v, %v", all, err)
	}
	for kind, ids := range c.leftoverIDs(c.t) {
		if len(ids) > 0 {
			return fmt.Sprintf("%s of %v are left", kind, ids)
		}
	}
	return ""
}

func (c *crashed) payload(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error { return c.api.PutPayload(ctx, ref, *files("new")) })
}

func (c *crashed) killDaemon(context.Context) error {
	_ = c.up.Process.Kill()
	if !c.gone(10 * time.Second) {
		return errors.New("the daemon does not end")
	}
	_ = c.launchUp() // it is killed in turn, while it starts or later
	return nil
}

func (c *crashed) killPilot(ctx context.Context) error   { return c.kill(ctx, "pilot") }
func (c *crashed) killSandbox(ctx context.Context) error { return c.kill(ctx, "sandbox") }

func (c *crashed) kill(ctx context.Context, role string) error {
	return c.on(ctx, func(ref gondola.Ref) error {
		pids := processesOf(role, string(ref.ID))
		if role == "sandbox" && c.driver != "" {
			pids = c.pauseOf(ref.ID)
		}
		if len(pids) != 1 {
			return fmt.Errorf("there are %d processes that are the %s", len(pids), role)
		}
		return syscall.Kill(pids[0], syscall.SIGKILL)
	})
}

func (c *crashed) endContainer(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error { return c.api.Signal(ctx, ref, "SIGKILL") })
}

func (c *crashed) down(context.Context) error {
	out, err := c.bounded("down")
	if err != nil {
		return fmt.Errorf("down: %w: %s", err, out)
	}
	return nil
}

// leave makes what a Machine that nobody knows would have left.
func (c *crashed) leave() error {
	return os.MkdirAll(filepath.Join(c.data, "machines", "0123456789abcd", "run"), 0o700)
}

func (c *crashed) makeExtra(ctx context.Context) error {
	_, err := c.api.CreateVolume(ctx, app, gondola.CreateVolumeRequest{Name: "extra", SizeGB: 1, ID: c.ids.extra})
	return err
}

func (c *crashed) copyVolume(ctx context.Context) error {
	_, err := c.api.CreateVolume(ctx, app, gondola.CreateVolumeRequest{Name: "extra", SourceVolume: c.ids.data, ID: c.ids.extra})
	return err
}

func (c *crashed) extend(ctx context.Context) error {
	_, err := c.api.ExtendVolume(ctx, gondola.VolumeRef{App: app, ID: c.ids.data}, 2)
	return err
}

func (c *crashed) snapshot(ctx context.Context) error {
	_, err := c.api.SnapshotVolume(ctx, gondola.VolumeRef{App: app, ID: c.ids.data}, c.ids.snapshot)
	return err
}

func (c *crashed) makeSnapshot() error { return errors.Join(c.makeMachine(), c.snapshot(c.ctx)) }

func (c *crashed) deleteSnapshot(ctx context.Context) error {
	err := c.api.DeleteSnapshot(ctx, gondola.VolumeRef{App: app, ID: c.ids.data}, c.ids.snapshot)
	if errors.Is(err, gondola.ErrNotFound) {
		return nil
	}
	return err
}

func (c *crashed) snapshots(ctx context.Context) string {
	list, err := c.api.ListSnapshots(ctx, gondola.VolumeRef{App: app, ID: c.ids.data})
	if err != nil {
		return err.Error()
	}
	said := []string{}
	for _, s := range list {
		said = append(said, s.ID+" "+s.Status)
	}
	return "[" + strings.Join(said, ", ") + "]"
}

func (c *crashed) snapshotted(ctx context.Context) string {
	if got := c.snapshots(ctx); got != "["+c.ids.snapshot+" created]" {
		return "snapshots are " + got
	}
	return running("old")(c, ctx) // nobody waits for a disk that stands still
}

func (c *crashed) deleteVolume(ctx context.Context) error {
	_, err := c.api.PurgeVolume(ctx, gondola.VolumeRef{App: app, ID: c.ids.extra})
	if errors.Is(err, gondola.ErrNotFound) {
		return nil
	}
	return err
}

func (c *crashed) volumeGone(ctx context.Context) string {
	list, err := c.api.ListVolumes(ctx, app)
	if err != nil || len(list) > 0 {
		return fmt.Sprintf("volumes are %v, %v", list, err)
	}
	return ""
}

func (c *crashed) importImage(ctx context.Context) error {
	f, err := os.Open(c.archive())
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = c.api.ImportImage(ctx, f, c.image)
	return err
}

// unusedImage leaves an image that a daemon of before has imported: one just used is kept for a while.
func (c *crashed) unusedImage() error {
	if err := errors.Join(c.makeArchive(), c.importImage(c.ctx), c.killDaemon(c.ctx)); err != nil {
		return err
	}
	c.hangUp()
	return c.ready()
}

func (c *crashed) pull(ctx context.Context) error {
	req := c.request(c.image)
	req.Config.Mounts, req.Config.Volumes, req.Config.Containers[0].Mounts, req.Gondola = nil, nil, nil, nil
	_, err := c.api.Create(ctx, app, req)
	return err
}

func (c *crashed) prune(ctx context.Context) error {
	_, err := c.api.PruneImages(ctx)
	return err
}

// hasImage says that the image of the round is there, or is not.
func hasImage(want bool) func(*crashed, context.Context) string {
	return func(c *crashed, ctx context.Context) string {
		list, err := c.api.ListImages(ctx)
		if err != nil {
			return err.Error()
		}
		if got := slices.ContainsFunc(list, func(i gondola.ImageInfo) bool { return i.Reference == c.image }); got != want {
			return fmt.Sprintf("image %s is there: %v, want %v", c.image, got, want)
		}
		return ""
	}
}

func hasVolume(name string, size int) func(*crashed, context.Context) string {
	return func(c *crashed, ctx context.Context) string {
		id := map[string]gondola.VolumeID{"data": c.ids.data, "extra": c.ids.extra}[name]
		v, err := c.api.Volume(ctx, gondola.VolumeRef{App: app, ID: id})
		if err != nil {
			return err.Error()
		}
		if v.State != gondola.VolumeCreated || v.SizeGB != size || v.BytesTotal == 0 {
			return fmt.Sprintf("volume %s is %s with %d GB, %d bytes", id, v.State, v.SizeGB, v.BytesTotal)
		}
		return ""
	}
}

func isState(want gondola.State) func(*crashed, context.Context) string {
	return func(c *crashed, ctx context.Context) string {
		m, err := c.machine(ctx)
		if err != nil {
			return err.Error()
		}
		if m.State != want {
			return fmt.Sprintf("machine %s is %s, want %s", m.ID, m.State, want)
		}
		return c.processes(m)
	}
}

// running says that the Machine runs once, answers, has its data and sees these files.
func running(word string) func(*crashed, context.Context) string {
	return func(c *crashed, ctx context.Context) string {
		if wrong := isState(gondola.Started)(c, ctx); wrong != "" {
			return wrong
		}
		m, err := c.machine(ctx)
		if err != nil {
			return err.Error()
		}
		if code, err := c.get(ctx, "http://"+m.Gondola.Addresses[0].String()+":8080/"); err != nil || code != http.StatusOK {
			return fmt.Sprintf("the machine answers %d, %v", code, err)
		}
		if word == "" {
			return ""
		}
		want := word
		script := "cat /files/word"
		if c.kept {
			want, script = word+"kept\n", script+" /data/word"
		}
		if out, err := c.exec(ctx, script); err != nil || out != want {
			return fmt.Sprintf("it reads %q, %v, want %q", out, err, want)
		}
		return ""
	}
}

func (c *crashed) softDelete() error {
	_, err := c.api.DeleteVolume(c.ctx, gondola.VolumeRef{App: app, ID: c.ids.extra})
	return err
}

func (c *crashed) recoverVolume(ctx context.Context) error {
	_, err := c.api.RecoverVolume(ctx, gondola.VolumeRef{App: app, ID: c.ids.extra})
	return err
}

func (c *crashed) setSecret() error {
	_, err := c.api.SetSecret(c.ctx, app, "TOKEN", "kept")
	return err
}

func (c *crashed) renewKey(ctx context.Context) error { return c.api.RenewSecretsKey(ctx) }

// secretKept says that the secret can be read, by a key of which there is one.
func (c *crashed) secretKept(ctx context.Context) string {
	if s, err := c.api.Secret(ctx, app, "TOKEN", gondola.SecretsQuery{Show: true}); err != nil || s.Value != "kept" {
		return fmt.Sprintf("the secret is %q, %v", s.Value, err)
	}
	if fi, err := os.Stat(filepath.Join(c.data, "secrets.key")); err != nil || fi.Size() != 32 {
		return fmt.Sprintf("the key file has more than one key (%v)", err)
	}
	return ""
}
