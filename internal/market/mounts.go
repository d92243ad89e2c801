package market

import (
	"context"
	"slices"

	"gondola"
)

// bind finds the one worker that has the Volumes which a Machine mounts, and puts their ids into its Config; ws are the workers of the regions
// that were asked for. Without mounts it returns ws. The worker decides whether the Machine really gets them.
func (m *Market) bind(ctx context.Context, app gondola.AppName, c *gondola.Config, ws []Worker) ([]Worker, error) {
	if len(c.Mounts) == 0 {
		return ws, nil
	}
	var err error
	byName := false
	for _, want := range c.Mounts {
		id, _ := want.Wanted()
		if id == "" {
			byName = true
			continue
		}
		before := ws
		if ws, err = m.with(ctx, app, string(id), ws); err != nil {
			if len(before) == 1 && before[0].Name != "" && len(c.Mounts) > 1 {
				err = gondola.Errorf(gondola.ErrPrecondition, "%w; a machine has all its volumes on one worker", err)
			}
			return nil, err
		}
	}
	if !byName {
		return ws, nil
	}
	return m.bindNames(ctx, app, c, ws)
}

// bindNames chooses free Volumes for the mounts that only name theirs: all on one worker, the first that has them.
func (m *Market) bindNames(ctx context.Context, app gondola.AppName, c *gondola.Config, ws []Worker) ([]Worker, error) {
	have, err := m.ListVolumes(ctx, app)
	if err != nil {
		return nil, err
	}
	missing, attached := "", gondola.Volume{}
	for _, w := range ws {
		mounts := slices.Clone(c.Mounts)
		complete := true
		for i, want := range mounts {
			id, name := want.Wanted()
			if id != "" {
				continue
			}
			at := slices.IndexFunc(have, func(v gondola.Volume) bool {
				if v.Name == name && v.AttachedMachine != nil {
					attached = v
				}
				chosen := slices.ContainsFunc(mounts, func(o gondola.VolumeMount) bool { return o.Volume == string(v.ID) })
				return v.Worker == w.Name && v.Name == name && v.AttachedMachine == nil && v.State == gondola.VolumeCreated && !chosen
			})
			if at < 0 {
				complete, missing = false, name
				break
			}
			mounts[i].Volume = string(have[at].ID)
			if want.Name == "" {
				mounts[i].Name = name
			}
		}
		if complete {
			c.Mounts = mounts
			return []Worker{w}, nil
		}
	}
	if attached.AttachedMachine != nil {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "volume already attached: machine %s has volume %s, and app %s has no other named %q; create one",
			*attached.AttachedMachine, attached.ID, app, missing)
	}
	return nil, gondola.Errorf(gondola.ErrNotFound, "volume not found: app %s has none named %q there that is free; create one first", app, missing)
}

// boundTo returns the ids of the Volumes that a Config mounts.
func boundTo(c *gondola.Config) (ids []gondola.VolumeID) {
	for _, want := range c.Mounts {
		if id, _ := want.Wanted(); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}
