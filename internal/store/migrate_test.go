package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gondola"
	"gondola/internal/store"
)

// old makes a database as a gondola of before left it: testdata/<kind>-<version of its schema>.sql, one for every schema that was ever in a
// release.
func old(t *testing.T, file string) string {
	t.Helper()
	dump, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "old.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(string(dump)); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return path
}

// version reads the version of a database's schema.
func version(t *testing.T, path string) (v int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("PRAGMA user_version").Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestOpenWorker_BringsEveryOlderSchemaUpToDate(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "new.db")
	w, err := store.OpenWorker(fresh)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	newest := version(t, fresh)
	for v := 1; v == 1 || v < newest; v++ {
		path := old(t, fmt.Sprintf("worker-%d.sql", v))
		w, err := store.OpenWorker(path)
		if err != nil {
			t.Fatalf("schema %d: %v", v, err)
		}
		m, err := w.Machine(t.Context(), "4d7f7ad78a33f0")
		if err != nil || m.State != gondola.Started || m.Config.Image != "gondola.local/hello" || m.Allocated.CPUMillis != 100 {
			t.Errorf("schema %d: its Machine is %+v (%v)", v, m, err)
		}
		if b, err := w.Sealed(t.Context(), m.ID); err != nil || string(b) != "sealed" {
			t.Errorf("schema %d: the payload of its Machine is %q (%v)", v, b, err)
		}
		m.State = gondola.Stopped
		if err := w.Save(t.Context(), m); err != nil {
			t.Errorf("schema %d: %v", v, err)
		}
		w.Close()
		if got := version(t, path); got != newest {
			t.Errorf("schema %d became %d, want %d", v, got, newest)
		}
	}
}

func TestOpenServer_BringsEveryOlderSchemaUpToDate(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "new.db")
	s, err := store.OpenServer(fresh)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	newest := version(t, fresh)
	for v := 1; v == 1 || v < newest; v++ {
		path := old(t, fmt.Sprintf("server-%d.sql", v))
		s, err := store.OpenServer(path)
		if err != nil {
			t.Fatalf("schema %d: %v", v, err)
		}
		if a, err := s.App(t.Context(), "main-default"); err != nil || a.Network != "main" {
			t.Errorf("schema %d: its App is %+v (%v)", v, a, err)
		}
		if m, err := s.Join(t.Context(), "bbb", "bbb"); err != nil || m.Number != 2 {
			t.Errorf("schema %d: its worker bbb has number %d (%v), want 2", v, m.Number, err)
		}
		if v >= 3 {
			if err := s.DeleteNetworkPolicy(t.Context(), "main-default", "np_01KBRZ7N2X4V8M0QF6T3YH5J9W"); err != nil {
				t.Errorf("schema %d: %v", v, err)
			}
			if ps, err := s.PolicedWithoutPolicies(t.Context()); err != nil || len(ps) != 1 || ps[0] != (store.Policed{Network: "main", App: "main-default"}) {
				t.Errorf("schema %d: workers may have ended policies of %+v (%v), want of its App", v, ps, err)
			}
		}
		if apps, err := s.AppsWithNetworkPolicies(t.Context()); err != nil || len(apps) != 0 {
			t.Errorf("schema %d: there are policies of %v (%v), want none of Apps that are gone", v, apps, err)
		}
		s.Close()
		if got := version(t, path); got != newest {
			t.Errorf("schema %d became %d, want %d", v, got, newest)
		}
	}
}
