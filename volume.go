package gondola

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"regexp"
	"strings"
	"time"
)

// VolumeID names a Volume: "vol_" and 16 characters.
type VolumeID string

// NewVolumeID returns a fresh random VolumeID.
func NewVolumeID() VolumeID { return VolumeID("vol_" + random16()) }

// NewSnapshotID returns a fresh random id of a VolumeSnapshot.
func NewSnapshotID() string { return "vs_" + random16() }

// random16 returns 80 random bits as 16 lower-case letters and digits.
func random16() string {
	var b [10]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

var (
	volumeIDRE   = regexp.MustCompile(`^vol_[a-z0-9]{16}$`)
	snapshotIDRE = regexp.MustCompile(`^vs_[a-z0-9]{16}$`)
	volumeNameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$`)
)

// IsVolumeID says whether s has the form of a VolumeID.
func IsVolumeID(s string) bool { return volumeIDRE.MatchString(s) }

// IsSnapshotID says whether s has the form of the id of a VolumeSnapshot.
func IsSnapshotID(s string) bool { return snapshotIDRE.MatchString(s) }

// VolumeRef names a Volume of an App.
type VolumeRef struct {
	App AppName
	ID  VolumeID
}

// Volume is a disk on one worker. It outlives Machines, is attached to one of them at a time, and binds that Machine to its worker.
type Volume struct {
	ID                VolumeID    `json:"id"`
	Name              string      `json:"name"`
	State             VolumeState `json:"state"`
	SizeGB            int         `json:"size_gb"` // GiB
	Region            Region      `json:"region"`
	Zone              string      `json:"zone"` // the worker, so that equal zones mean one host
	Encrypted         bool        `json:"encrypted"`
	AttachedMachine   *MachineID  `json:"attached_machine_id"`
	AttachedAlloc     *string     `json:"attached_alloc_id"` // always null: of an older platform
	CreatedAt         time.Time   `json:"created_at"`
	Blocks            uint64      `json:"blocks"`
	BlockSize         uint64      `json:"block_size"` // 4096
	BlocksFree        uint64      `json:"blocks_free"`
	BlocksAvail       uint64      `json:"blocks_avail"`
	BytesTotal        uint64      `json:"bytes_total"`
	BytesUsed         uint64      `json:"bytes_used"`
	FSType            string      `json:"fstype"`             // VolumeFSType, VolumeFSRaw or VolumeFSDirectory
	SnapshotRetention int         `json:"snapshot_retention"` // days, 1 to 60; 0: until they are deleted
	AutoBackup        bool        `json:"auto_backup_enabled"`
	HostStatus        string      `json:"host_status,omitempty"` // "ok", "unreachable"
	Type              string      `json:"type,omitempty"`        // "local"
	App               AppName     `json:"app_name,omitempty"`
	Worker            WorkerName  `json:"worker,omitempty"`
	// DeletedAt is when a Volume was deleted that can still be recovered (VolumePendingDestroy); else nil.
	DeletedAt *time.Time `json:"deleted_at,omitempty"`
}

// VolumeState is where a Volume is in its life.
type VolumeState string

const (
	VolumeCreating       VolumeState = "creating"
	VolumeCreated        VolumeState = "created"
	VolumeExtending      VolumeState = "extending"
	VolumeRestoring      VolumeState = "restoring"       // from a snapshot or another Volume
	VolumePendingDestroy VolumeState = "pending_destroy" // deleted, and can be recovered for a while
	VolumeDestroying     VolumeState = "destroying"
)

// CreateVolumeRequest is the body of POST …/volumes.
type CreateVolumeRequest struct {
	Name              string   `json:"name"`
	Region            string   `json:"region,omitempty"`  // as in CreateRequest
	SizeGB            int      `json:"size_gb,omitempty"` // GiB; if zero, 3; at most 500
	Encrypted         *bool    `json:"encrypted,omitempty"`
	RequireUniqueZone *bool    `json:"require_unique_zone,omitempty"`
	UniqueZoneAppWide bool     `json:"unique_zone_app_wide,omitempty"`
	SnapshotRetention *int     `json:"snapshot_retention,omitempty"` // days, 1 to 60; 0: until they are deleted; if nil, 5
	AutoBackup        *bool    `json:"auto_backup_enabled,omitempty"`
	FSType            string   `json:"fstype,omitempty"`           // "ext4" or "raw"; if empty, that of what it is a copy of, else "ext4"
	SnapshotID        string   `json:"snapshot_id,omitempty"`      // restore from
	SourceVolume      VolumeID `json:"source_volume_id,omitempty"` // fork from
	Compute           *Guest   `json:"compute,omitempty"`          // place it where such a Machine has room
	ComputeImage      string   `json:"compute_image,omitempty"`
	// ID makes a create idempotent: doing it again returns the Volume that is there. Chosen by the server; accepted from clients too.
	ID VolumeID `json:"id,omitempty"`
}

// Bounds and defaults of Volumes.
const (
	DefaultVolumeGB   = 3
	MaxVolumeGB       = 500
	DefaultRetention  = 5 // days that a snapshot is kept
	maxRetention      = 60
	VolumeKept        = 24 * time.Hour // that a deleted Volume can be recovered, unless its room is wanted before
	VolumeFSType      = "ext4"
	VolumeFSRaw       = "raw"       // no file system: a Machine finds one file of the Volume's size in the place of the mount
	VolumeFSDirectory = "directory" // of a host that has no loop devices: nothing but the platform's count holds the size down
)

// Validate returns an ErrInvalid that names the first field that cannot be, or nil.
func (r *CreateVolumeRequest) Validate() error {
	switch {
	case !volumeNameRE.MatchString(r.Name):
		return Errorf(ErrInvalid, "volume name %q: use 1 to 63 letters, digits, dashes and underscores", r.Name)
	case r.SizeGB < 0 || r.SizeGB > MaxVolumeGB:
		return Errorf(ErrInvalid, "size_gb %d: use 1 to %d", r.SizeGB, MaxVolumeGB)
	case r.FSType != "" && r.FSType != VolumeFSType && r.FSType != VolumeFSRaw:
		return Errorf(ErrInvalid, "fstype %q: use %s or %s", r.FSType, VolumeFSType, VolumeFSRaw)
	case r.SnapshotID != "" && r.SourceVolume != "":
		return Errorf(ErrInvalid, "snapshot_id and source_volume_id: a volume begins as one of them, not both")
	case r.SnapshotID != "" && !IsSnapshotID(r.SnapshotID):
		return Errorf(ErrInvalid, "snapshot_id %q: want vs_ and 16 lower-case letters and digits", r.SnapshotID)
	case r.ID != "" && !IsVolumeID(string(r.ID)):
		return Errorf(ErrInvalid, "id %q: want vol_ and 16 lower-case letters and digits", r.ID)
	}
	return validRetention(r.SnapshotRetention)
}

// Validate returns an ErrInvalid that names the first field that cannot be, or nil.
func (r *UpdateVolumeRequest) Validate() error { return validRetention(r.SnapshotRetention) }

func validRetention(days *int) error {
	if days != nil && (*days < 0 || *days > maxRetention) {
		return Errorf(ErrInvalid, "snapshot_retention %d: use 1 to %d days, or 0 to keep snapshots until they are deleted", *days, maxRetention)
	}
	return nil
}

// UpdateVolumeRequest is the body of PUT …/volumes/{id}; nil fields stay.
type UpdateVolumeRequest struct {
	SnapshotRetention *int  `json:"snapshot_retention,omitempty"`
	AutoBackup        *bool `json:"auto_backup_enabled,omitempty"`
}

// ExtendVolumeResponse is the answer to an extension.
type ExtendVolumeResponse struct {
	Volume       Volume `json:"volume"`
	NeedsRestart bool   `json:"needs_restart"` // the Machine sees the new size only after a restart
}

// VolumeSnapshot is a copy of a Volume at one moment, on the same worker.
type VolumeSnapshot struct {
	ID            string    `json:"id"`          // "vs_" and 16 characters
	Size          int64     `json:"size"`        // bytes that it takes
	VolumeSize    int64     `json:"volume_size"` // bytes of the Volume at that moment
	Digest        string    `json:"digest"`
	CreatedAt     time.Time `json:"created_at"`
	Status        string    `json:"status"`              // "creating", "created", "failed"
	RetentionDays int       `json:"retention_days"`      // 0: until it is deleted
	Volume        VolumeID  `json:"volume_id,omitempty"` // may be gone
	// Region and Worker are where it is: a Volume can be made from it there only.
	Region Region     `json:"region,omitempty"`
	Worker WorkerName `json:"worker,omitempty"`
}

// Volumes is the life of Volumes. Like Machines, a worker does it, a market routes it and a client carries it.
//
// Every method returns ErrNotFound for an unknown App, Volume or snapshot and ErrUnavailable when its worker does not answer.
type Volumes interface {
	// CreateVolume finds a worker of the region with room on its disk, ErrCapacity where none has, and makes the Volume there. It returns
	// when the Volume can be used.
	CreateVolume(ctx context.Context, app AppName, req CreateVolumeRequest) (Volume, error)
	Volume(ctx context.Context, ref VolumeRef) (Volume, error)
	// ListVolumes returns the Volumes of an App, or of all Apps where app is empty, oldest first.
	ListVolumes(ctx context.Context, app AppName) ([]Volume, error)
	UpdateVolume(ctx context.Context, ref VolumeRef, req UpdateVolumeRequest) (Volume, error)
	// ExtendVolume grows a Volume to sizeGB GiB, while it is in use too; ErrInvalid for a smaller size.
	ExtendVolume(ctx context.Context, ref VolumeRef, sizeGB int) (ExtendVolumeResponse, error)
	// DeleteVolume deletes a Volume; ErrPrecondition while a Machine has it. For VolumeKept, or until its room is wanted, it is VolumePendingDestroy:
	// no Machine can have it, it can be copied and recovered. Deleting twice is no error while it is on record.
	DeleteVolume(ctx context.Context, ref VolumeRef) (Volume, error)
	// RecoverVolume undoes DeleteVolume. One that is not deleted is left alone.
	RecoverVolume(ctx context.Context, ref VolumeRef) (Volume, error)
	// PurgeVolume deletes a Volume with its data at once, a deleted one too; ErrPrecondition while a Machine has it.
	PurgeVolume(ctx context.Context, ref VolumeRef) (Volume, error)
	// SnapshotVolume keeps a copy of the Volume as it is now, as after a power cut. id makes it idempotent; if empty, one is chosen.
	SnapshotVolume(ctx context.Context, ref VolumeRef, id string) (VolumeSnapshot, error)
	// ListSnapshots returns the snapshots of a Volume, oldest first. They outlive it: those of one that is gone are listed too, and where ref has no ID,
	// those of all Volumes that the App has or had. ErrUnavailable where a worker that may have some does not answer.
	ListSnapshots(ctx context.Context, ref VolumeRef) ([]VolumeSnapshot, error)
	DeleteSnapshot(ctx context.Context, ref VolumeRef, id string) error
}
