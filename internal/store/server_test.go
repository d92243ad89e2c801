package store_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"gondola"
	"gondola/internal/store"
)

func openServer(t *testing.T) *store.Server {
	t.Helper()
	s, err := store.OpenServer(filepath.Join(t.TempDir(), "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestApps_ShareANetworkOfTheSameName(t *testing.T) {
	s, ctx := openServer(t), t.Context()
	a, err := s.CreateApp(ctx, gondola.NewApp{Name: "one", Network: "cluster"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.CreateApp(ctx, gondola.NewApp{Name: "two", Network: "cluster"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.CreateApp(ctx, gondola.NewApp{Name: "three"})
	if err != nil {
		t.Fatal(err)
	}
	if a.NetworkID == 0 || a.NetworkID != b.NetworkID || a.NetworkID == c.NetworkID || c.Network != gondola.DefaultNetwork {
		t.Errorf("networks %d %d %d (%s), want the first two equal and the third, default, another", a.NetworkID, b.NetworkID, c.NetworkID, c.Network)
	}
	if _, err := s.CreateApp(ctx, gondola.NewApp{Name: "one"}); !errors.Is(err, gondola.ErrNameTaken) {
		t.Errorf("CreateApp of a taken name = %v, want ErrNameTaken", err)
	}
	if _, err := s.CreateApp(ctx, gondola.NewApp{Name: "No Good"}); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("CreateApp of a bad name = %v, want ErrInvalid", err)
	}
	if err := s.DeleteApp(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteApp(ctx, "one"); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("second DeleteApp = %v, want ErrNotFound", err)
	}
	apps, err := s.ListApps(ctx, "")
	if err != nil || len(apps) != 2 || apps[0].Name != "three" {
		t.Errorf("ListApps = %v, %v, want three and two", apps, err)
	}
}

func TestIndex_GivesARetryTheSameWorkerAndID(t *testing.T) {
	s, ctx := openServer(t), t.Context()
	if _, _, err := s.Reserve(ctx, "shop", "web", "a1", "fra"); !errors.Is(err, gondola.ErrNotFound) {
		t.Fatalf("Reserve in an unknown app = %v, want ErrNotFound", err)
	}
	if _, err := s.CreateApp(ctx, gondola.NewApp{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	if e, ok, err := s.Reserve(ctx, "shop", "web", "a1", "fra"); err != nil || !ok || e.ID != "a1" {
		t.Fatalf("Reserve = %v %v %v", e, ok, err)
	}
	e, ok, err := s.Reserve(ctx, "shop", "web", "b2", "gru")
	if err != nil || ok || e.ID != "a1" || e.Worker != "fra" {
		t.Fatalf("Reserve of a taken name = %+v %v %v, want the first row and false", e, ok, err)
	}
	if moved, err := s.Move(ctx, "a1", "ams", "gru"); moved || err != nil {
		t.Fatalf("Move from where it is not = %v %v, want false", moved, err)
	}
	if moved, err := s.Move(ctx, "a1", "fra", "gru"); !moved || err != nil {
		t.Fatalf("Move = %v %v, want true", moved, err)
	}
	if err := s.Forget(ctx, "a1", "fra"); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Lookup(ctx, "shop", "a1"); err != nil || e.Worker != "gru" {
		t.Errorf("Lookup after Move = %+v %v", e, err)
	}
	if _, err := s.Lookup(ctx, "other", "a1"); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("Lookup through another app = %v, want ErrNotFound", err)
	}
	if a, _ := s.App(ctx, "shop"); a.MachineCount != 1 || a.Status != "deployed" {
		t.Errorf("App = %+v, want one machine, deployed", a)
	}
	if err := s.Remove(ctx, "a1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LookupName(ctx, "shop", "web"); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("LookupName after Remove = %v, want ErrNotFound", err)
	}
	if e, err := s.Lookup(ctx, "", "a1"); err != nil || e.RemovedAt.IsZero() {
		t.Errorf("Lookup of a removed machine by id = %+v %v, want its row", e, err)
	}
	if _, ok, err := s.Reserve(ctx, "shop", "web", "b2", "gru"); err != nil || !ok {
		t.Errorf("Reserve of a freed name = %v %v, want true", ok, err)
	}
	live, _ := s.ByApp(ctx, "shop", false)
	all, _ := s.ByApp(ctx, "", true)
	if len(live) != 1 || len(all) != 2 {
		t.Errorf("ByApp: %d live, %d in all; want 1 and 2", len(live), len(all))
	}
}

func TestIndex_RebuildsFromTheWorkersButKeepsACreateUnderWay(t *testing.T) {
	s, ctx := openServer(t), t.Context()
	if _, err := s.CreateApp(ctx, gondola.NewApp{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []gondola.MachineID{"gone", "there"} {
		if _, _, err := s.Reserve(ctx, "shop", string(id), id, "fra"); err != nil {
			t.Fatal(err)
		}
	}
	asOf := time.Now().Add(2 * time.Millisecond) // rows have milliseconds
	for time.Now().Before(asOf.Add(time.Millisecond)) {
	}
	if _, _, err := s.Reserve(ctx, "shop", "new", "new", "fra"); err != nil {
		t.Fatal(err)
	}
	err := s.Rebuild(ctx, "fra", []store.Entry{{App: "shop", Name: "there", ID: "there"}, {App: "shop", Name: "found", ID: "found"}}, asOf)
	if err != nil {
		t.Fatal(err)
	}
	live, _ := s.ByApp(ctx, "shop", false)
	have := map[gondola.MachineID]bool{}
	for _, e := range live {
		have[e.ID] = true
	}
	if len(have) != 3 || !have["there"] || !have["found"] || !have["new"] {
		t.Errorf("after Rebuild the index has %v, want there, found and new", have)
	}
}

func TestDeleteApp_TakesItsNetworkPoliciesAlong(t *testing.T) {
	s := openServer(t)
	ctx, shop := t.Context(), gondola.NewApp{Name: "shop"}
	if _, err := s.CreateApp(ctx, shop); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutNetworkPolicy(ctx, "shop", gondola.NetworkPolicy{Name: "all", Selector: gondola.NetworkSelector{All: true}}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteApp(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateApp(ctx, shop); err != nil {
		t.Fatal(err)
	}
	if list, err := s.ListNetworkPolicies(ctx, "shop"); err != nil || len(list) != 0 {
		t.Errorf("another app of that name has policies %+v, %v", list, err)
	}
}

func TestMembers_KeepTheirNumber(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	s, err := store.OpenServer(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	a, _ := s.Join(ctx, "fra", "fra")
	b, err := s.Join(ctx, "gru", "gru")
	if err != nil || a.Number != 1 || b.Number != 2 {
		t.Fatalf("Join = %v %v %v, want numbers 1 and 2", a, b, err)
	}
	if err := s.SetSetting(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err = store.OpenServer(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if b, err = s.Join(ctx, "gru", "bog"); err != nil || b.Number != 2 || b.Region != "bog" {
		t.Errorf("Join again = %+v %v, want number 2 and region bog", b, err)
	}
	if v, ok, err := s.Setting(ctx, "k"); err != nil || !ok || v != "v" {
		t.Errorf("Setting = %q %v %v", v, ok, err)
	}
}

func TestOpen_RefusesANewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	s, err := store.OpenServer(path)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := store.OpenServer(path); !errors.Is(err, gondola.ErrUnsupported) {
		t.Errorf("OpenServer of a newer file = %v, want ErrUnsupported", err)
	}
}
