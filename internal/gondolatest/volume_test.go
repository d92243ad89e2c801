package gondolatest_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"gondola"
	"gondola/internal/gondolatest"
	"gondola/internal/store"
)

// eventually waits until what it asks for holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for begin := time.Now(); !holds(); <-time.After(20 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("after 20 s it does not hold: %s", what)
		}
	}
}

// onRecord changes what the first worker has on record, while it is stopped.
func onRecord(t *testing.T, p *gondolatest.Platform, change func(db *store.Worker) error) {
	t.Helper()
	w := p.Workers[0]
	w.Stop()
	db, err := store.OpenWorker(filepath.Join(p.Dir, "worker", "local", "worker.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(db), db.Close()); err != nil {
		t.Fatal(err)
	}
	w.Start()
}

// TestVolume_WhatACrashCutShortIsFinished puts into the worker's file what it records before each step.
func TestVolume_WhatACrashCutShortIsFinished(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	whole, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "whole", SizeGB: 2})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := p.SnapshotVolume(t.Context(), gondola.VolumeRef{App: "shop", ID: whole.ID}, "")
	if err != nil {
		t.Fatal(err)
	}
	doomed, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "doomed"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[gondola.VolumeID]int{} // → size in GB
	var over, fresh gondola.VolumeID
	onRecord(t, p, func(db *store.Worker) error {
		put := func(v gondola.Volume, state gondola.VolumeState, size int, source string) gondola.VolumeID {
			if v.ID == "" {
				v = gondola.Volume{ID: gondola.NewVolumeID(), Name: string(state), App: "shop", CreatedAt: time.Now()}
			}
			v.State, v.SizeGB = state, size
			if err := db.PutVolume(t.Context(), store.Volume{Volume: v, Source: source}); err != nil {
				t.Fatal(err)
			}
			return v.ID
		}
		want[put(gondola.Volume{}, gondola.VolumeCreating, 1, "")] = 1
		want[put(gondola.Volume{}, gondola.VolumeRestoring, 3, snap.ID)] = 3
		want[put(whole, gondola.VolumeExtending, 5, "")] = 5
		put(doomed, gondola.VolumePendingDestroy, 3, "")
		yesterday, now := time.Now().Add(-gondola.VolumeKept-time.Minute), time.Now()
		over = put(gondola.Volume{ID: gondola.NewVolumeID(), Name: "over", App: "shop", DeletedAt: &yesterday}, gondola.VolumePendingDestroy, 3, "")
		fresh = put(gondola.Volume{ID: gondola.NewVolumeID(), Name: "fresh", App: "shop", DeletedAt: &now}, gondola.VolumePendingDestroy, 3, "")
		return db.PutSnapshot(t.Context(), store.Snapshot{App: "shop", VolumeSnapshot: gondola.VolumeSnapshot{ID: gondola.NewSnapshotID(), Volume: whole.ID, Status: "creating",
			RetentionDays: 5, CreatedAt: time.Now()}})
	})
	w := p.Workers[0]
	for id, gb := range want {
		eventually(t, "a volume is finished with its size", func() bool {
			v, err := w.Volume(t.Context(), gondola.VolumeRef{ID: id})
			return err == nil && v.State == gondola.VolumeCreated && v.SizeGB == gb && v.BytesTotal == uint64(gb)<<30
		})
	}
	for _, id := range []gondola.VolumeID{doomed.ID, over} {
		eventually(t, "a volume that was being destroyed, or whose time is over, is gone", func() bool {
			_, err := w.Volume(t.Context(), gondola.VolumeRef{ID: id})
			return errors.Is(err, gondola.ErrNotFound)
		})
	}
	if v, err := w.Volume(t.Context(), gondola.VolumeRef{ID: fresh}); err != nil || v.State != gondola.VolumePendingDestroy {
		t.Errorf("a volume that was deleted just now is %+v, %v", v, err)
	}
	eventually(t, "of the snapshots the whole one is left", func() bool {
		all, err := w.ListSnapshots(t.Context(), gondola.VolumeRef{ID: whole.ID})
		return err == nil && len(all) == 1 && all[0].ID == snap.ID
	})
	eventually(t, "the index has what the worker has", func() bool {
		all, err := p.ListVolumes(t.Context(), "shop")
		return err == nil && len(all) == 4
	})
}

func TestVolume_AMachineKeepsItOverARestartOfTheWorker(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	v, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data"})
	if err != nil {
		t.Fatal(err)
	}
	c := gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"trap"}}, Mounts: []gondola.VolumeMount{{Volume: string(v.ID), Path: "/data"}}}
	m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context(), m.Ref(), gondola.WaitRequest{}); err != nil {
		t.Fatal(err)
	}
	w := p.Workers[0]
	w.Stop()
	w.Start()
	if _, err := p.DeleteVolume(t.Context(), gondola.VolumeRef{App: "shop", ID: v.ID}); !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("DeleteVolume after a restart = %v, want ErrPrecondition: %s has it", err, m.ID)
	}
	if got := w.Host.Mounted(); len(got) != 1 {
		t.Errorf("mounted = %v, want %s", got, v.ID)
	}
	if err := p.Destroy(t.Context(), m.Ref(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context(), m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Destroyed}}); err != nil {
		t.Fatal(err)
	}
	if got := w.Host.Mounted(); len(got) != 0 {
		t.Errorf("after the machine was destroyed %v is mounted", got)
	}
}

func TestVolume_BindsItsMachineToItsWorker(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"aaa", "bbb"}, Total: gondola.Resources{CPUMillis: 1000, MemoryBytes: 1 << 30}})
	p.NewApp("shop")
	v, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data", Region: "bbb"})
	if err != nil || v.Region != "bbb" || v.Worker != "bbb" {
		t.Fatalf("CreateVolume in bbb = %+v, %v", v, err)
	}
	c := gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"trap"}}, Mounts: []gondola.VolumeMount{{Name: "data", Path: "/data"}}}
	m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Config: c})
	if err != nil || m.Region != "bbb" {
		t.Fatalf("Create with a volume in bbb = region %s, %v", m.Region, err)
	}
	c.Mounts[0].Volume = string(v.ID)
	if _, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Config: c, Region: "aaa"}); !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("Create in aaa with a volume in bbb = %v, want ErrPrecondition", err)
	}
	if err := p.Destroy(t.Context(), m.Ref(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context(), m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Destroyed}}); err != nil {
		t.Fatal(err)
	}
	c.Guest = &gondola.Guest{CPUKind: "performance", CPUs: 2, MemoryMB: 4096}
	_, err = p.Create(t.Context(), "shop", gondola.CreateRequest{Config: c})
	if want := "insufficient resources to create new machine with existing volume '" + string(v.ID) + "'"; !errors.Is(err, gondola.ErrPrecondition) || len(err.Error()) < len(want) ||
		err.Error()[:len(want)] != want || len(gondola.Refusals(err)) != 1 {
		t.Errorf("Create without room = %v, want %s", err, want)
	}
	strict := true
	second, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data"})
	if err != nil || second.Worker != "aaa" {
		t.Errorf("a second volume of that name is on %s (%v), want the other worker", second.Worker, err)
	}
	_, err = p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data", RequireUniqueZone: &strict})
	if !errors.Is(err, gondola.ErrCapacity) {
		t.Errorf("a third with require_unique_zone = %v, want ErrCapacity", err)
	}
	if err := p.DeleteApp(t.Context(), "shop"); err != nil {
		t.Errorf("DeleteApp = %v", err)
	}
	for _, w := range p.Workers {
		if left, err := w.ListVolumes(t.Context(), ""); err != nil || len(left) != 0 {
			t.Errorf("after DeleteApp worker %s has %v, %v", w.Name, left, err)
		}
	}
}

// TestVolume_AMissedDayIsMadeUpForOnce puts the clock of a Volume back by some days.
func TestVolume_AMissedDayIsMadeUpForOnce(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	on, days := true, 2
	v, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "daily", SizeGB: 1, AutoBackup: &on, SnapshotRetention: &days})
	if err != nil {
		t.Fatal(err)
	}
	old, err := p.SnapshotVolume(t.Context(), gondola.VolumeRef{App: "shop", ID: v.ID}, "")
	if err != nil {
		t.Fatal(err)
	}
	onRecord(t, p, func(db *store.Worker) error {
		old.CreatedAt = time.Now().Add(-3 * 24 * time.Hour)
		return db.PutSnapshot(t.Context(), store.Snapshot{App: "shop", VolumeSnapshot: old})
	})
	w := p.Workers[0]
	eventually(t, "there is one snapshot, of now, and the one past its retention is gone", func() bool {
		all, err := w.ListSnapshots(t.Context(), gondola.VolumeRef{ID: v.ID})
		return err == nil && len(all) == 1 && all[0].ID != old.ID && all[0].Status == "created" && all[0].RetentionDays == days
	})
	all, err := p.ListSnapshots(t.Context(), gondola.VolumeRef{App: "shop", ID: v.ID})
	if err != nil || len(all) != 1 {
		t.Fatalf("ListSnapshots = %+v, %v, want the one of now", all, err)
	}
	if back, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "back", SnapshotID: all[0].ID}); err != nil || back.SizeGB != 1 {
		t.Errorf("CreateVolume from the daily snapshot = %+v, %v", back, err)
	}
	if err := p.DeleteSnapshot(t.Context(), gondola.VolumeRef{App: "shop"}, all[0].ID); err != nil {
		t.Errorf("DeleteSnapshot of the daily snapshot = %v", err)
	}
}

// TestVolume_DailySnapshotsGoWithTheirApp puts two snapshots there that no index knows: one of now, and one of an App that had the name before.
func TestVolume_DailySnapshotsGoWithTheirApp(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	v, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data", SizeGB: 1})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := p.SnapshotVolume(t.Context(), gondola.VolumeRef{App: "shop", ID: v.ID}, "")
	if err != nil {
		t.Fatal(err)
	}
	daily, earlier := taken, taken
	daily.ID, earlier.ID, earlier.Volume, earlier.CreatedAt = gondola.NewSnapshotID(), gondola.NewSnapshotID(), gondola.NewVolumeID(), time.Now().Add(-time.Hour)
	onRecord(t, p, func(db *store.Worker) error {
		return errors.Join(db.PutSnapshot(t.Context(), store.Snapshot{App: "shop", VolumeSnapshot: daily}), db.PutSnapshot(t.Context(), store.Snapshot{App: "shop", VolumeSnapshot: earlier}))
	})
	eventually(t, "the App's own are listed", func() bool {
		all, err := p.ListSnapshots(t.Context(), gondola.VolumeRef{App: "shop"})
		return err == nil && len(all) == 2 && all[0].Volume == v.ID && all[1].Volume == v.ID
	})
	if _, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "stolen", SnapshotID: earlier.ID}); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("CreateVolume from a snapshot of another App = %v, want ErrNotFound", err)
	}
	if err := p.DeleteApp(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if left, err := p.Workers[0].ListSnapshots(t.Context(), gondola.VolumeRef{ID: v.ID}); !errors.Is(err, gondola.ErrNotFound) && len(left) > 0 {
		t.Errorf("after DeleteApp there is %+v, %v", left, err)
	}
}

// TestVolume_SnapshotsWithoutRetentionStayUntilTheyAreDeleted puts the clock of two snapshots back by ten years.
func TestVolume_SnapshotsWithoutRetentionStayUntilTheyAreDeleted(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	taken := map[int]gondola.VolumeSnapshot{}
	for _, days := range []int{0, 60} {
		v, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data", SizeGB: 1, SnapshotRetention: &days})
		if err != nil || v.SnapshotRetention != days {
			t.Fatalf("CreateVolume with a retention of %d = %+v, %v", days, v, err)
		}
		if taken[days], err = p.SnapshotVolume(t.Context(), gondola.VolumeRef{App: "shop", ID: v.ID}, ""); err != nil || taken[days].RetentionDays != days {
			t.Fatalf("SnapshotVolume = %+v, %v", taken[days], err)
		}
	}
	onRecord(t, p, func(db *store.Worker) (err error) {
		for _, snap := range taken {
			snap.CreatedAt = time.Now().AddDate(-10, 0, 0)
			err = errors.Join(err, db.PutSnapshot(t.Context(), store.Snapshot{App: "shop", VolumeSnapshot: snap}))
		}
		return err
	})
	w := p.Workers[0]
	eventually(t, "the one past its retention is gone", func() bool {
		all, err := w.ListSnapshots(t.Context(), gondola.VolumeRef{ID: taken[60].Volume})
		return err == nil && len(all) == 0
	})
	if all, err := w.ListSnapshots(t.Context(), gondola.VolumeRef{ID: taken[0].Volume}); err != nil || len(all) != 1 {
		t.Errorf("of the volume without retention there are %+v, %v, want its snapshot", all, err)
	}
}

// TestVolume_ItsSnapshotsAreFoundWhenItIsForgotten drops the row of a Volume as two days after its end.
func TestVolume_ItsSnapshotsAreFoundWhenItIsForgotten(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"aaa", "bbb"}})
	p.NewApp("shop")
	v, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data", SizeGB: 1, Region: "bbb"})
	if err != nil {
		t.Fatal(err)
	}
	ref := gondola.VolumeRef{App: "shop", ID: v.ID}
	snap, err := p.SnapshotVolume(t.Context(), ref, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "other", SizeGB: 1, Region: "aaa"}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.PurgeVolume(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if err := p.Store.ForgetVolume(t.Context(), string(v.ID)); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []gondola.VolumeRef{ref, {App: "shop"}} {
		if all, err := p.ListSnapshots(t.Context(), ref); err != nil || len(all) != 1 || all[0].ID != snap.ID || all[0].Region != "bbb" {
			t.Errorf("ListSnapshots(%v) = %+v, %v, want %s in bbb", ref, all, err, snap.ID)
		}
	}
	if _, err := p.ListSnapshots(t.Context(), gondola.VolumeRef{App: "shop", ID: gondola.NewVolumeID()}); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("ListSnapshots of a volume that never was = %v, want ErrNotFound", err)
	}
	if err := p.DeleteSnapshot(t.Context(), ref, snap.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := p.ListSnapshots(t.Context(), ref); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("ListSnapshots after the last one is gone = %v, want ErrNotFound", err)
	}
	p.Workers[1].Stop()
	if _, err := p.ListSnapshots(t.Context(), gondola.VolumeRef{App: "shop"}); err != nil {
		t.Errorf("ListSnapshots with a worker away that has nothing of the App = %v", err)
	}
}
