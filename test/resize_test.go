package test

import (
	"context"
	"fmt"

	"gondola"
)

// larger is what the Machine of an operation is resized to.
func larger() gondola.Size {
	return gondola.Size{Requests: gondola.Resources{CPUMillis: 300, MemoryBytes: 400 << 20}, Limits: gondola.Resources{MemoryBytes: 500 << 20}}
}

func (c *crashed) resize(ctx context.Context) error {
	return c.on(ctx, func(ref gondola.Ref) error {
		_, err := c.api.Resize(ctx, ref, gondola.ResizeRequest{Size: larger(), Containers: []gondola.ContainerSize{{Name: "main", Size: larger()}}})
		return err
	})
}

func (c *crashed) resized(ctx context.Context) string {
	if wrong := running("old")(c, ctx); wrong != "" {
		return wrong
	}
	m, err := c.machine(ctx)
	if err != nil {
		return err.Error()
	}
	if k := m.Gondola.Containers[0]; m.Gondola.Resize != nil || m.Gondola.Allocated != larger().Requests || k.Size == nil || *k.Size != larger() || k.RestartCount > 0 {
		return fmt.Sprintf("it holds %s, its container has %+v and was restarted %d times, the resize is %+v", m.Gondola.Allocated, k.Size, k.RestartCount, m.Gondola.Resize)
	}
	if out, err := c.exec(ctx, "cat /sys/fs/cgroup/memory.max"); err != nil || out != "524288000\n" {
		return fmt.Sprintf("memory.max is %q, %v", out, err)
	}
	return ""
}
