package test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"gondola"
	"gondola/internal/driver"
)

// pauseOf finds the process that is the sandbox of a Machine on runc.
func (c *crashed) pauseOf(id gondola.MachineID) []int {
	p, err := driver.ReadProcess(filepath.Join(c.data, "machines", string(id), "run", driver.SandboxRecord))
	if err != nil || !p.Alive() {
		return nil
	}
	return []int{p.PID}
}

func (c *crashed) addContainer(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error {
		return c.api.AddContainer(ctx, ref, gondola.AddContainerRequest{Container: gondola.Container{Name: "added", Image: "gondola.local/hello",
			Cmd: []string{"sleep", "600"}}})
	})
}

// added says that both containers run, the added one once.
func (c *crashed) added(ctx context.Context) string {
	if wrong := running("old")(c, ctx); wrong != "" {
		return wrong
	}
	m, err := c.machine(ctx)
	if err != nil {
		return err.Error()
	}
	i := slices.IndexFunc(m.Gondola.Containers, func(s gondola.ContainerStatus) bool { return s.Name == "added" })
	if i < 0 || m.Gondola.Containers[i].State.Kind != gondola.ContainerRunning {
		return fmt.Sprintf("containers are %+v", m.Gondola.Containers)
	}
	return ""
}

// chatter has the program write more output than one log file takes.
func (c *crashed) chatter(ctx context.Context) error {
	m, err := c.machine(ctx)
	if err != nil {
		return err
	}
	for range 13 { // nobody answers while the output is not read
		_, _ = c.get(ctx, "http://"+m.Gondola.Addresses[0].String()+":8080/"+strings.Repeat("x", 900<<10))
	}
	return nil
}

// logged says that the log goes on.
func (c *crashed) logged(ctx context.Context) string {
	if wrong := running("old")(c, ctx); wrong != "" {
		return wrong
	}
	var last []byte
	err := c.on(ctx, func(ref gondola.Ref) error {
		m, err := c.machine(ctx)
		if err != nil {
			return err
		}
		if _, err := c.get(ctx, "http://"+m.Gondola.Addresses[0].String()+":8080/the-last"); err != nil {
			return err
		}
		tail := int64(3)
		log, err := c.api.Logs(ctx, ref, gondola.LogOptions{Tail: &tail})
		if err != nil {
			return err
		}
		defer log.Close()
		last, err = io.ReadAll(log)
		return err
	})
	if err != nil || !strings.Contains(string(last), "the-last") {
		return fmt.Sprintf("the log ends with %.200q, %v", last, err)
	}
	return ""
}

func (c *crashed) restoreVolume(ctx context.Context) error {
	_, err := c.api.CreateVolume(ctx, app, gondola.CreateVolumeRequest{Name: "extra", SnapshotID: c.ids.snapshot, ID: c.ids.extra})
	return err
}
