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
	// CreateVolume makes a Volume. ErrCapacity if there is no room, ErrInvalid if it is to be of another kind than its source.
	CreateVolume(ctx context.Context, v NewVolume) error
	// MountVolume makes the contents visible at a path of the host, until UnmountVolume: a directory, or the file that a raw Volume is.
	MountVolume(ctx context.Context, id gondola.VolumeID, how gondola.VolumeMountExtension) (path string, err error)
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

// NewVolume is a Volume to be made.
type NewVolume struct {
	ID     gondola.VolumeID
	Bytes  int64
	Source string // a snapshot or Volume of which it is a copy; if empty, it is empty
	FSType string // as CreateVolumeRequest has it
}

// VolumeUsage is how full a Volume is.
type VolumeUsage struct {
	BlockSize, Blocks, BlocksFree, BlocksAvail uint64
	TotalBytes, UsedBytes                      uint64
	FSType                                     string
}
