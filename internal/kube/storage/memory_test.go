package storage_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"gondola"
)

// disks is a platform's Volumes without a platform: each region has so many GiB.
type disks struct {
	mu        sync.Mutex
	free      map[gondola.Region]int
	volumes   map[gondola.VolumeRef]*gondola.Volume
	snapshots map[gondola.VolumeRef][]gondola.VolumeSnapshot
	origin    map[gondola.VolumeID]string // what it was made from
	restart   bool                        // extensions want one
}

func newDisks(free map[gondola.Region]int) *disks {
	return &disks{free: free, volumes: map[gondola.VolumeRef]*gondola.Volume{}, snapshots: map[gondola.VolumeRef][]gondola.VolumeSnapshot{}, origin: map[gondola.VolumeID]string{}}
}

func (d *disks) CreateVolume(_ context.Context, app gondola.AppName, req gondola.CreateVolumeRequest) (gondola.Volume, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := req.Validate(); err != nil {
		return gondola.Volume{}, err
	}
	ref := gondola.VolumeRef{App: app, ID: req.ID}
	if v, ok := d.volumes[ref]; ok {
		return *v, nil
	}
	for _, r := range strings.Split(req.Region, ",") {
		region := gondola.Region(r)
		if d.free[region] < req.SizeGB {
			continue
		}
		d.free[region] -= req.SizeGB
		v := &gondola.Volume{ID: req.ID, Name: req.Name, State: gondola.VolumeCreated, SizeGB: req.SizeGB, Region: region, App: app, CreatedAt: time.Now()}
		d.volumes[ref] = v
		d.origin[req.ID] = req.SnapshotID + string(req.SourceVolume)
		return *v, nil
	}
	return gondola.Volume{}, gondola.Errorf(gondola.ErrCapacity, "%s: %d GB wanted, less is free", req.Region, req.SizeGB)
}

func (d *disks) Volume(_ context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.find(ref)
	if err != nil {
		return gondola.Volume{}, err
	}
	return *v, nil
}

func (d *disks) find(ref gondola.VolumeRef) (*gondola.Volume, error) {
	if v, ok := d.volumes[ref]; ok {
		return v, nil
	}
	return nil, gondola.Errorf(gondola.ErrNotFound, "app %s has no volume %s", ref.App, ref.ID)
}

func (d *disks) ListVolumes(_ context.Context, app gondola.AppName) ([]gondola.Volume, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []gondola.Volume{}
	for ref, v := range d.volumes {
		if app == "" || ref.App == app {
			out = append(out, *v)
		}
	}
	return out, nil
}

func (d *disks) UpdateVolume(ctx context.Context, ref gondola.VolumeRef, _ gondola.UpdateVolumeRequest) (gondola.Volume, error) {
	return d.Volume(ctx, ref)
}

func (d *disks) ExtendVolume(_ context.Context, ref gondola.VolumeRef, sizeGB int) (gondola.ExtendVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.find(ref)
	if err != nil {
		return gondola.ExtendVolumeResponse{}, err
	}
	if d.free[v.Region] < sizeGB-v.SizeGB {
		return gondola.ExtendVolumeResponse{}, gondola.Errorf(gondola.ErrCapacity, "%s: the disk of volume %s has no room for %d GB", v.Region, ref.ID, sizeGB)
	}
	d.free[v.Region] -= sizeGB - v.SizeGB
	v.SizeGB = sizeGB
	return gondola.ExtendVolumeResponse{Volume: *v, NeedsRestart: d.restart}, nil
}

func (d *disks) DeleteVolume(_ context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.find(ref)
	if err != nil {
		return gondola.Volume{}, err
	}
	if v.AttachedMachine != nil {
		return gondola.Volume{}, gondola.Errorf(gondola.ErrPrecondition, "volume %s is attached to machine %s", ref.ID, *v.AttachedMachine)
	}
	d.free[v.Region] += v.SizeGB
	delete(d.volumes, ref)
	return *v, nil
}

func (d *disks) SnapshotVolume(_ context.Context, ref gondola.VolumeRef, id string) (gondola.VolumeSnapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.find(ref)
	if err != nil {
		return gondola.VolumeSnapshot{}, err
	}
	for _, s := range d.snapshots[ref] {
		if s.ID == id {
			return s, nil
		}
	}
	s := gondola.VolumeSnapshot{ID: id, VolumeSize: int64(v.SizeGB) << 30, CreatedAt: time.Now(), Status: "created", Volume: ref.ID}
	d.snapshots[ref] = append(d.snapshots[ref], s)
	return s, nil
}

func (d *disks) ListSnapshots(_ context.Context, ref gondola.VolumeRef) ([]gondola.VolumeSnapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.snapshots[ref]), nil
}

func (d *disks) DeleteSnapshot(_ context.Context, ref gondola.VolumeRef, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.snapshots[ref] = slices.DeleteFunc(d.snapshots[ref], func(s gondola.VolumeSnapshot) bool { return s.ID == id })
	return nil
}

// vanish takes a Volume away behind everybody's back.
func (d *disks) vanish(ref gondola.VolumeRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.volumes, ref)
}
