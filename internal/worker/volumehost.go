package worker

import (
	"context"

	"gondola"
)

// VolumeHost is what a worker needs done with the disks of its host. All methods are idempotent and work for Volumes and, where they take a
// string, for snapshots.
type VolumeHost interface {
	// DiskRoom is how many bytes new Volumes may take, and how many all of them may.
	DiskRoom() (free, total int64, err error)
	// CreateVolume makes a Volume: empty, or a copy of source, a snapshot or Volume. ErrCapacity if there is no room.
	CreateVolume(ctx context.Context, id gondola.VolumeID, bytes int64, source string) error
	// MountVolume makes the contents visible at a directory of the host, until UnmountVolume.
	MountVolume(ctx context.Context, id gondola.VolumeID, how gondola.VolumeMountExtension) (dir string, err error)
	UnmountVolume(ctx context.Context, id gondola.VolumeID) error
	// ExtendVolume makes a Volume larger; later says that its users see that only after it was unmounted.
	ExtendVolume(ctx context.Context, id gondola.VolumeID, bytes int64) (later bool, err error)
	VolumeUsage(id gondola.VolumeID) (VolumeUsage, error)
	// SnapshotVolume copies a Volume as it is now. It returns the bytes that the copy takes and those of the Volume.
	SnapshotVolume(ctx context.Context, id gondola.VolumeID, snapshot string) (taken, of int64, err error)
	DeleteVolume(ctx context.Context, id string) error
	// LeftoverVolumes lists this worker's Volumes and snapshots that are on the disk.
	LeftoverVolumes(ctx context.Context) ([]string, error)
}

// VolumeUsage is how full a Volume is.
type VolumeUsage struct {
	BlockSize, Blocks, BlocksFree, BlocksAvail uint64
	TotalBytes, UsedBytes                      uint64
	FSType                                     string
}
