package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/store"
)

func machine(id gondola.MachineID, number uint16) store.Machine {
	now := time.Now()
	return store.Machine{ID: id, App: "shop", Name: "m-" + string(id), Number: number, Network: "default", NetworkID: 1, State: gondola.Created,
		Version: gondola.NewVersion(now), Config: &gondola.Config{Image: "hello"}, Target: gondola.Started,
		Allocated: gondola.Resources{CPUMillis: 100, MemoryBytes: 1 << 20}, Detail: []byte("{}"), CreatedAt: now, UpdatedAt: now}
}

func TestWorker_FindsItsMachinesAgain(t *testing.T) {
	path, ctx := filepath.Join(t.TempDir(), "w", "worker.db"), t.Context()
	w, err := store.OpenWorker(path)
	if err != nil {
		t.Fatal(err)
	}
	a := machine("a1", 1)
	if err := w.Create(ctx, a, []byte("sealed"), gondola.Event{ID: "1", Type: "launch"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Create(ctx, machine("b2", 1), nil); !errors.Is(err, gondola.ErrNameTaken) {
		t.Errorf("Create with a taken number = %v, want ErrNameTaken", err)
	}
	for i := range 150 {
		if err := w.Save(ctx, a, gondola.Event{ID: fmt.Sprintf("2%04d", i), Type: "start"}); err != nil {
			t.Fatal(err)
		}
	}
	// Not closed: as after kill -9.
	again, err := store.OpenWorker(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	defer w.Close()
	if again.Boots() != w.Boots()+1 {
		t.Errorf("Boots = %d after %d", again.Boots(), w.Boots())
	}
	ms, err := again.Machines(ctx)
	if err != nil || len(ms) != 1 || ms[0].Config.Image != "hello" || ms[0].Allocated != a.Allocated || !ms[0].CreatedAt.Equal(a.CreatedAt) {
		t.Fatalf("Machines = %+v %v, want %+v", ms, err, a)
	}
	if b, err := again.Sealed(ctx, "a1"); err != nil || string(b) != "sealed" {
		t.Errorf("Sealed = %q %v", b, err)
	}
	es, err := again.Events(ctx, "a1", 0)
	if err != nil || len(es) != 100 || es[0].ID != "20149" {
		t.Errorf("Events: %d, newest %v, %v; want the newest 100", len(es), es[0], err)
	}
}

func TestWorker_DestroyedMachineGivesUpNameNumberAndPayload(t *testing.T) {
	w, err := store.OpenWorker(filepath.Join(t.TempDir(), "worker.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx := t.Context()
	a := machine("a1", 7)
	if err := w.Create(ctx, a, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	a.State, a.DestroyedAt = gondola.Destroyed, time.Now()
	if err := w.Save(ctx, a); err != nil {
		t.Fatal(err)
	}
	b := machine("b2", 7)
	b.Name = a.Name
	if err := w.Create(ctx, b, nil); err != nil {
		t.Errorf("Create with freed name and number = %v", err)
	}
	if sealed, err := w.Sealed(ctx, "a1"); err != nil || sealed != nil {
		t.Errorf("Sealed of a destroyed machine = %q %v, want none", sealed, err)
	}
	if m, err := w.Machine(ctx, "a1"); err != nil || m.State != gondola.Destroyed || m.Number != 0 {
		t.Errorf("Machine = %+v %v, want it destroyed, without number", m, err)
	}
	if n, err := w.Collect(ctx, time.Now().Add(-time.Hour), 10); err != nil || n != 0 {
		t.Errorf("Collect of older ones = %d %v, want 0", n, err)
	}
	if n, err := w.Collect(ctx, time.Now(), 10); err != nil || n != 1 {
		t.Errorf("Collect = %d %v, want 1", n, err)
	}
	if _, err := w.Machine(ctx, "a1"); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("Machine after Collect = %v, want ErrNotFound", err)
	}
}

func TestOpenWorker_NamesADamagedFileAndTheWayOut(t *testing.T) {
	for _, row := range []struct {
		name string
		at   int64
	}{{"header", 0}, {"first page", 200}, {"another page", 2*4096 + 1}} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "worker.db")
			w, err := store.OpenWorker(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 3000), row.at); err != nil {
				t.Fatal(err)
			}
			f.Close()
			w, err = store.OpenWorker(path)
			if err == nil {
				w.Close()
				t.Fatal("a damaged file was opened")
			}
			if text := err.Error(); !strings.Contains(text, path+" is damaged") || !strings.Contains(text, "gondola restore") {
				t.Errorf("the error is %q, want the file and the way out", text)
			}
		})
	}
}
