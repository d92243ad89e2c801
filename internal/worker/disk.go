package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"gondola"
	"gondola/internal/store"
)

// disk is a Volume of this worker.
type disk struct {
	busy chan struct{} // of one: who has put something in works on it
	rec  store.Volume  // guarded by disks.mu
}

// disks are the Volumes of a worker and who has them. That a Machine has a Volume follows from its record: its Config mounts it, or its present
// run does. So it needs no record of its own, and the two never disagree.
type disks struct {
	mu   sync.Mutex
	all  map[gondola.VolumeID]*disk
	held map[gondola.VolumeID]gondola.MachineID
}

func newDisks() *disks {
	return &disks{all: map[gondola.VolumeID]*disk{}, held: map[gondola.VolumeID]gondola.MachineID{}}
}

func (d *disks) add(rec store.Volume) *disk {
	v := &disk{busy: make(chan struct{}, 1), rec: rec}
	d.all[rec.ID] = v
	return v
}

// get returns a Volume that is there or was, nil if it is not on record.
func (d *disks) get(app gondola.AppName, id gondola.VolumeID) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.all[id]
	if v == nil || app != "" && v.rec.App != app {
		return nil
	}
	return v
}

// record returns a copy of what is known of a Volume.
func (d *disks) record(v *disk) store.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return v.rec
}

// list returns those that keep wants, oldest first.
func (d *disks) list(keep func(store.Volume) bool) []*disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	var vs []*disk
	for _, v := range d.all {
		if keep(v.rec) {
			vs = append(vs, v)
		}
	}
	slices.SortFunc(vs, func(a, b *disk) int {
		if c := a.rec.CreatedAt.Compare(b.rec.CreatedAt); c != 0 {
			return c
		}
		return compare(a.rec.ID, b.rec.ID)
	})
	return vs
}

func compare(a, b gondola.VolumeID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// begin waits until nobody else works on a Volume.
func (v *disk) begin(ctx context.Context) (end func(), err error) {
	select {
	case v.busy <- struct{}{}:
		return func() { <-v.busy }, nil
	case <-ctx.Done():
		return nil, deadline(ctx, "volume %s is being worked on", v.rec.ID)
	}
}

// tryBegin is begin for those who come again.
func (v *disk) tryBegin() (end func(), ok bool) {
	select {
	case v.busy <- struct{}{}:
		return func() { <-v.busy }, true
	default:
		return nil, false
	}
}

// holder returns the Machine that has a Volume, nil if none.
func (d *disks) holder(id gondola.VolumeID) *gondola.MachineID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m, ok := d.held[id]; ok {
		return &m
	}
	return nil
}

// hold makes a Machine have exactly these Volumes.
func (d *disks) hold(m gondola.MachineID, ids []gondola.VolumeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, by := range d.held {
		if by == m && !slices.Contains(ids, id) {
			delete(d.held, id)
		}
	}
	for _, id := range ids {
		d.held[id] = m
	}
}

// claim finds the Volumes that a Config mounts, puts their ids into it and makes the Machine have them beside those that it has. Either all of
// them are free, or nothing changes.
func (d *disks) claim(app gondola.AppName, m gondola.MachineID, c *gondola.Config) error {
	if len(c.Mounts) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	mounts := slices.Clone(c.Mounts)
	var ids []gondola.VolumeID
	for i, want := range mounts {
		id, name := want.Wanted()
		if id == "" {
			var err error
			if id, err = d.freeLocked(app, m, name, c.Mounts, ids); err != nil {
				return err
			}
			mounts[i].Volume = string(id)
			if want.Name == "" {
				mounts[i].Name = want.Volume // by which containers know it
			}
		}
		if err := d.usableLocked(app, m, id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	c.Mounts = mounts
	for _, id := range ids {
		d.held[id] = m
	}
	return nil
}

// usableLocked says why a Machine cannot have a Volume.
func (d *disks) usableLocked(app gondola.AppName, m gondola.MachineID, id gondola.VolumeID) error {
	v := d.all[id]
	switch {
	case v == nil || v.rec.App != app || !v.rec.DestroyedAt.IsZero():
		return volumeNotFound(app, id)
	case v.rec.State != gondola.VolumeCreated && v.rec.State != gondola.VolumeExtending:
		return gondola.Errorf(gondola.ErrPrecondition, "volume %s cannot be mounted now: it is %s", id, v.rec.State)
	}
	if by, taken := d.held[id]; taken && by != m {
		return gondola.Errorf(gondola.ErrPrecondition, "volume already attached: machine %s has volume %s; destroy that machine first, or mount another volume", by, id)
	}
	return nil
}

// freeLocked finds the oldest Volume of a name that a Machine can have and that its other mounts do not name.
func (d *disks) freeLocked(app gondola.AppName, m gondola.MachineID, name string, mounts []gondola.VolumeMount, chosen []gondola.VolumeID) (gondola.VolumeID, error) {
	var best *disk
	var why error = gondola.Errorf(gondola.ErrNotFound, "volume not found: app %s has none named %q on this worker; create one first", app, name)
	for id, v := range d.all {
		named := slices.ContainsFunc(mounts, func(o gondola.VolumeMount) bool { return o.Volume == string(id) })
		if v.rec.Name != name || v.rec.App != app || !v.rec.DestroyedAt.IsZero() || named || slices.Contains(chosen, id) {
			continue
		}
		if err := d.usableLocked(app, m, id); err != nil {
			why = err
			continue
		}
		mine := func(v *disk) bool { return d.held[v.rec.ID] == m }
		if best == nil || mine(v) && !mine(best) || mine(v) == mine(best) && v.rec.CreatedAt.Before(best.rec.CreatedAt) {
			best = v
		}
	}
	if best == nil {
		return "", why
	}
	return best.rec.ID, nil
}

// lacks says why a Machine that mounts these cannot be here; empty if it can.
func (d *disks) lacks(ids []gondola.VolumeID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		if v := d.all[id]; v == nil || !v.rec.DestroyedAt.IsZero() {
			return fmt.Sprintf("it does not have volume %s", id)
		}
	}
	return ""
}

func volumeNotFound(app gondola.AppName, id gondola.VolumeID) error {
	return gondola.Errorf(gondola.ErrNotFound, "volume not found: there is none with id %q in app %q", id, app)
}

// volumes are those that a Machine has: its Config mounts them, or its present run does.
func (r *record) volumes() []gondola.VolumeID {
	if !r.DestroyedAt.IsZero() {
		return nil
	}
	ids := mounted(r.Config)
	if r.Step == stepRun {
		ids = append(ids, r.Mounted...)
	}
	return ids
}

// mounted are the Volumes that a Config mounts, once claim has found them.
func mounted(c *gondola.Config) (ids []gondola.VolumeID) {
	for _, m := range c.Mounts {
		if id, _ := m.Wanted(); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// sameMounts puts into the mounts of a Config the ids that claim has found for those of an equal one.
func sameMounts(of, known *gondola.Config) *gondola.Config {
	if len(of.Mounts) != len(known.Mounts) {
		return of
	}
	c := *of
	c.Mounts = slices.Clone(of.Mounts)
	for i, m := range c.Mounts {
		if id, name := m.Wanted(); id == "" && known.Mounts[i].Label() == name {
			c.Mounts[i].Volume, c.Mounts[i].Name = known.Mounts[i].Volume, name
		} else if id == "" && m.Label() == known.Mounts[i].Label() {
			c.Mounts[i].Volume = known.Mounts[i].Volume
		}
	}
	return &c
}
