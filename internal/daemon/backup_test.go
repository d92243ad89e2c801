package daemon_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"gondola"
	"gondola/internal/daemon"
	"gondola/internal/gondolatest"
	"gondola/internal/market"
	"gondola/internal/seal"
	"gondola/internal/store"
)

// addMachine puts a Machine on a worker's record while no daemon runs.
func (h *host) addMachine(region, id string) {
	h.t.Helper()
	w, err := store.OpenWorker(filepath.Join(h.data, "worker", region, "worker.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	m := store.Machine{ID: gondola.MachineID(id), App: "shop", Name: "web", Number: 1, State: gondola.Stopped, Target: gondola.Stopped, Version: "v1", Config: &gondola.Config{Image: "x"}, Detail: []byte("{}")}
	if err := errors.Join(w.Create(h.t.Context(), m, nil), w.Close()); err != nil {
		h.t.Fatal(err)
	}
}

func TestBackup_OfARunningPlatformComesBack(t *testing.T) {
	h := newHost(t)
	regions := daemon.Config{Regions: []gondola.Region{"aaa", "bbb"}}
	_ = h.start(order{Config: regions}).end(syscall.SIGINT)
	h.addMachine("bbb", "12345678901234")
	u := h.start(order{})
	file := filepath.Join(t.TempDir(), "backup.tar.zst")
	if out, err := h.run(order{Command: "backup", File: file}); err != nil || !strings.Contains(out, "gondola restore") {
		t.Fatalf("backup while up runs: %v\n%s", err, out)
	}
	h.fails(order{Command: "backup", File: file}, "is there already")
	h.fails(order{Command: "restore", File: file}, "runs already")
	_ = u.end(syscall.SIGINT)
	h.fails(order{Command: "restore", File: file}, "has a gondola already", "--purge")
	before, err := os.ReadFile(filepath.Join(h.data, "instance"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := h.run(order{Command: "down", Purge: true}); err != nil {
		t.Fatalf("purge: %v\n%s", err, out)
	}
	if out, err := h.run(order{Command: "restore", File: file}); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	if after, err := os.ReadFile(filepath.Join(h.data, "instance")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("installation %s came back as %s (%v)", before, after, err)
	}
	_ = h.start(order{}).end(syscall.SIGINT) // and is one that runs
	w, err := store.OpenWorker(filepath.Join(h.data, "worker", "bbb", "worker.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if all, err := w.Machines(t.Context()); err != nil || len(all) != 1 || all[0].ID != "12345678901234" {
		t.Errorf("the restored worker has Machines %v (%v), want the one there was", all, err)
	}
}

// addSecret sets a secret while no daemon runs, as the daemon would.
func (h *host) addSecret(value string) {
	h.t.Helper()
	key, err := seal.OpenKey(filepath.Join(h.data, "secrets.key"))
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := store.OpenServer(filepath.Join(h.data, "server.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	m := market.New(market.Config{Index: s, Key: key})
	if _, err := m.CreateApp(h.t.Context(), gondola.NewApp{Name: "shop"}); err != nil {
		h.t.Fatal(err)
	}
	if _, err := m.SetSecret(h.t.Context(), "shop", "TOKEN", value); err != nil {
		h.t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		h.t.Fatal(err)
	}
}

func TestBackup_HoldsSecretsSealedAndTheirKey(t *testing.T) {
	const value = "hunter2-in-a-backup"
	h := newHost(t)
	_ = h.start(order{}).end(syscall.SIGINT)
	h.addSecret(value)
	file := filepath.Join(t.TempDir(), "backup.tar.zst")
	if out, err := h.run(order{Command: "backup", File: file}); err != nil {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]bool{}
	rewrite(t, whole, func(head *tar.Header, b []byte) (bool, []byte) {
		entries[head.Name] = true
		if bytes.Contains(b, []byte(value)) {
			t.Errorf("%s in the backup has the secret in clear", head.Name)
		}
		return true, b
	})
	if !entries["server.db"] || !entries["secrets.key"] {
		t.Fatalf("the backup has %v", entries)
	}
	if out, err := h.run(order{Command: "down", Purge: true}); err != nil {
		t.Fatalf("purge: %v\n%s", err, out)
	}
	if out, err := h.run(order{Command: "restore", File: file}); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	key, err := seal.OpenKey(filepath.Join(h.data, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenServer(filepath.Join(h.data, "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := market.New(market.Config{Index: s, Key: key}).Secret(t.Context(), "shop", "TOKEN", gondola.SecretsQuery{Show: true})
	if err != nil || got.Value != value {
		t.Errorf("the restored secret is %q, %v", got.Value, err)
	}
	if err := errors.Join(s.Close(), os.Remove(filepath.Join(h.data, "secrets.key"))); err != nil {
		t.Fatal(err)
	}
	h.fails(order{Command: "up"}, "secrets.key is missing", "put it back")
}

// disks are volumes whose snapshots have what a host's have.
type disks struct {
	gondola.Volumes
	data string
}

func (d disks) SnapshotVolume(ctx context.Context, ref gondola.VolumeRef, id string) (gondola.VolumeSnapshot, error) {
	s, err := d.Volumes.SnapshotVolume(ctx, ref, id)
	if err == nil {
		dir := filepath.Join(d.data, "volumes", s.ID)
		err = errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "disk"), []byte("of "+string(ref.ID)), 0o600))
	}
	return s, err
}

func TestBackup_LeavesOutVolumesThatAreBeingDestroyed(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	if _, err := p.CreateApp(t.Context(), gondola.NewApp{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "instance"), []byte("abcdefgh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var volumes []gondola.VolumeID
	for range 3 {
		v, err := p.CreateVolume(t.Context(), "shop", gondola.CreateVolumeRequest{Name: "data", SizeGB: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(data, "volumes", string(v.ID)), 0o700); err != nil {
			t.Fatal(err)
		}
		volumes = append(volumes, v.ID)
	}
	gone := volumes[1]
	p.Workers[0].Host.FailOn(func(step string, id gondola.MachineID) error {
		if step == "DeleteVolume" && string(id) == string(gone) {
			return errors.New("the disk is busy")
		}
		return nil
	})
	if _, err := p.PurgeVolume(t.Context(), gondola.VolumeRef{App: "shop", ID: gone}); err == nil {
		t.Fatal("the volume is destroyed, want that it cannot be for now")
	}
	var said strings.Builder
	file := filepath.Join(t.TempDir(), "backup.tar.zst")
	err := daemon.Backup(t.Context(), daemon.BackupOptions{Config: daemon.Config{Data: data}, Version: "test", To: file, Volumes: disks{p, data},
		Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }})
	if err != nil {
		t.Fatalf("backup: %v", err)
	}
	if want := fmt.Sprintf("volume %s is left out: ", gone); !strings.Contains(said.String(), want) || strings.Count(said.String(), "left out") != 1 {
		t.Errorf("backup says\n%s\nwant %q alone", &said, want)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	rewrite(t, whole, func(h *tar.Header, b []byte) (bool, []byte) {
		got[h.Name] = string(b)
		return true, b
	})
	for _, id := range volumes {
		want := ""
		if id != gone {
			want = "of " + string(id)
		}
		if b := got["volumes/"+string(id)+"/disk"]; b != want {
			t.Errorf("volume %s is in the backup as %q, want %q", id, b, want)
		}
	}
}

func TestRestore_OfADamagedBackupChangesNothing(t *testing.T) {
	h := newHost(t)
	_ = h.start(order{}).end(syscall.SIGINT)
	file := filepath.Join(t.TempDir(), "backup.tar.zst")
	if out, err := h.run(order{Command: "backup", File: file}); err != nil {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := h.run(order{Command: "down", Purge: true}); err != nil {
		t.Fatalf("purge: %v\n%s", err, out)
	}
	flipped := bytes.Clone(whole)
	for i := range 16 { // of single bits one in a thousand is none that zstd needs: all comes back as it was
		flipped[len(flipped)/2+i] ^= 0x10
	}
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"cut short":     {whole[:len(whole)/2], "damaged or cut short"},
		"cut at an end": {withoutLast(t, whole), "damaged or cut short"},
		"some bits":     {flipped, "nothing was restored"},
		"something":     {[]byte("this is no backup"), "not a backup of gondola"},
		"of tomorrow":   {replaced(t, whole, `"format": 1`, `"format": 9`), "format 9"},
		"leads outside": {replaced(t, whole, "server.db", "../erver.d"), "no backup has"},
	} {
		if err := os.WriteFile(file, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		h.fails(order{Command: "restore", File: file}, c.want)
		if entries, err := os.ReadDir(h.data); err == nil {
			t.Errorf("%s: the data directory has %v now", name, entries)
		}
	}
	h.fails(order{Command: "restore", File: file + ".none"}, "no such file")
}

// withoutLast is a backup without its last entry, well packed.
func withoutLast(t *testing.T, backup []byte) []byte {
	return rewrite(t, backup, func(h *tar.Header, b []byte) (bool, []byte) { return h.Name != "gondola-backup.end", b })
}

// replaced is a backup with something else in names and small files, of the same length.
func replaced(t *testing.T, backup []byte, old, other string) []byte {
	return rewrite(t, backup, func(h *tar.Header, b []byte) (bool, []byte) {
		h.Name = strings.ReplaceAll(h.Name, old, other)
		if h.Size < 4096 {
			b = bytes.ReplaceAll(b, []byte(old), []byte(other))
		}
		return true, b
	})
}

func rewrite(t *testing.T, backup []byte, entry func(*tar.Header, []byte) (bool, []byte)) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(backup))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var out bytes.Buffer
	zw, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	r, w := tar.NewReader(z), tar.NewWriter(zw)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if keep, b := entry(h, b); keep {
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
