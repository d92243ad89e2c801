package api

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"gondola"
	"gondola/internal/auth"
)

func (c *call) volume() gondola.VolumeRef {
	return gondola.VolumeRef{App: c.app(), ID: gondola.VolumeID(c.PathValue("volume"))}
}

// noDisk says that ErrCapacity is about a Volume: 400, as Fly.io's API has it.
type noDisk struct{ error }

func (e noDisk) Unwrap() error { return e.error }

const noDiskText = "no capacity: "

// onDisk marks an error of a call that wants room on a disk.
func onDisk(err error) error {
	if errors.Is(err, gondola.ErrCapacity) {
		return noDisk{err}
	}
	return err
}

func (a *API) createVolume(c *call) error {
	var req gondola.CreateVolumeRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	v, err := a.server.CreateVolume(c.ctx(), c.app(), req)
	if err != nil {
		return onDisk(err)
	}
	return c.send(http.StatusOK, v)
}

func (a *API) getVolume(c *call) error {
	v, err := a.server.Volume(c.ctx(), c.volume())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, v)
}

func (a *API) listVolumes(c *call) error {
	all, err := a.server.ListVolumes(c.ctx(), c.app())
	if err != nil {
		return err
	}
	part, _, err := page(c, all, func(v gondola.Volume) place { return placeOf(v.CreatedAt, string(v.ID)) })
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, append([]gondola.Volume{}, part...))
}

func (a *API) listOrgVolumes(c *call) error {
	sees, err := a.visible(c.ctx(), c.who, c.PathValue("org"))
	if err != nil {
		return err
	}
	all, err := a.server.ListVolumes(c.ctx(), "")
	if err != nil {
		return err
	}
	region, state := gondola.Region(c.query("region")), gondola.VolumeState(c.query("state"))
	all = slices.DeleteFunc(slices.Clone(all), func(v gondola.Volume) bool {
		return !sees(v.App, "") || region != "" && v.Region != region || state != "" && v.State != state
	})
	part, next, err := page(c, all, func(v gondola.Volume) place { return placeOf(v.CreatedAt, string(v.ID)) })
	if err != nil {
		return err
	}
	out := orgVolumes{Volumes: append([]gondola.Volume{}, part...), Next: next}
	if n := len(part); n > 0 {
		out.LastID, out.LastUpdated = string(part[n-1].ID), part[n-1].CreatedAt.Format(time.RFC3339Nano)
	}
	return c.send(http.StatusOK, out)
}

func (a *API) updateVolume(c *call) error {
	var req gondola.UpdateVolumeRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	v, err := a.server.UpdateVolume(c.ctx(), c.volume(), req)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, v)
}

func (a *API) extendVolume(c *call) error {
	var req extendBody
	if err := c.decode(&req); err != nil {
		return err
	}
	if req.SizeGB <= 0 {
		return malformedf("size_gb is missing: say how large the volume shall be, in GB")
	}
	out, err := a.server.ExtendVolume(c.ctx(), c.volume(), req.SizeGB)
	if err != nil {
		return onDisk(err)
	}
	return c.send(http.StatusOK, out)
}

// deleteVolume answers with the Volume, which fly-go decodes (trap 13).
func (a *API) deleteVolume(c *call) error {
	v, err := a.server.DeleteVolume(c.ctx(), c.volume())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, v)
}

func (a *API) recoverVolume(c *call) error {
	v, err := a.server.RecoverVolume(c.ctx(), c.volume())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, v)
}

func (a *API) purgeVolume(c *call) error {
	v, err := a.server.PurgeVolume(c.ctx(), c.volume())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, v)
}

func (a *API) snapshotVolume(c *call) error {
	var req snapshotBody
	if err := c.decode(&req); err != nil {
		return err
	}
	s, err := a.server.SnapshotVolume(c.ctx(), c.volume(), req.ID)
	if err != nil {
		return onDisk(err)
	}
	return c.send(http.StatusOK, s)
}

// listSnapshots lists those of a Volume, or of a whole App where the path has none.
func (a *API) listSnapshots(c *call) error {
	all, err := a.server.ListSnapshots(c.ctx(), c.volume())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, append([]gondola.VolumeSnapshot{}, all...))
}

func (a *API) deleteSnapshot(c *call) error {
	ref := c.volume()
	if ref.ID == auth.EveryOrg { // of whatever volume
		ref.ID = ""
	}
	if err := a.server.DeleteSnapshot(c.ctx(), ref, c.PathValue("snapshot")); err != nil {
		return err
	}
	return c.ok()
}
