package host

import (
	"context"

	"gondola"
	"gondola/internal/volume"
	"gondola/internal/worker"
)

// DiskRoom implements worker.VolumeHost. Workers of a host share its disk.
func (h *Host) DiskRoom() (free, total int64, err error) { return h.volumes.Room() }

// VolumeKind says how volumes are kept on this host, and if not as file systems of their own, why.
func (h *Host) VolumeKind() (kind volume.Kind, why string) { return h.volumes.Kind() }

// CreateVolume implements worker.VolumeHost.
func (w *WorkerHost) CreateVolume(ctx context.Context, v worker.NewVolume) error {
	return w.volumes.Create(ctx, volume.New{ID: string(v.ID), Owner: w.name, Size: v.Bytes, Source: v.Source, FSType: v.FSType})
}

// MountVolume implements worker.VolumeHost.
func (h *Host) MountVolume(ctx context.Context, id gondola.VolumeID, how gondola.VolumeMountExtension) (string, error) {
	return h.volumes.Mount(ctx, string(id), volume.Mount{Group: how.Group, OnMismatch: how.GroupChangePolicy == "on_root_mismatch"})
}

// UnmountVolume implements worker.VolumeHost.
func (h *Host) UnmountVolume(ctx context.Context, id gondola.VolumeID) error {
	return h.volumes.Unmount(ctx, string(id))
}

// ExtendVolume implements worker.VolumeHost.
func (h *Host) ExtendVolume(ctx context.Context, id gondola.VolumeID, bytes int64) (later bool, err error) {
	return h.volumes.Extend(ctx, string(id), bytes)
}

// VolumeUsage implements worker.VolumeHost.
func (h *Host) VolumeUsage(id gondola.VolumeID) (worker.VolumeUsage, error) {
	u, err := h.volumes.Usage(string(id))
	return worker.VolumeUsage{BlockSize: uint64(u.BlockSize), Blocks: uint64(u.Blocks), BlocksFree: uint64(u.BlocksFree), BlocksAvail: uint64(u.BlocksAvail),
		TotalBytes: uint64(u.TotalBytes), UsedBytes: uint64(u.UsedBytes), FSType: u.FSType}, err
}

// SnapshotVolume implements worker.VolumeHost.
func (h *Host) SnapshotVolume(ctx context.Context, id gondola.VolumeID, snapshot string) (taken, of int64, err error) {
	return h.volumes.Snapshot(ctx, string(id), snapshot)
}

// DeleteVolume implements worker.VolumeHost.
func (h *Host) DeleteVolume(ctx context.Context, id string) error { return h.volumes.Delete(ctx, id) }

// LeftoverVolumes implements worker.VolumeHost.
func (w *WorkerHost) LeftoverVolumes(context.Context) ([]string, error) {
	return w.volumes.Leftovers(w.name)
}
