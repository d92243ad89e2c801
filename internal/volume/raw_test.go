package volume_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"gondola"
	"gondola/internal/volume"
)

// disk opens the file that a raw volume is. While it is open, its loop device stays.
func disk(t *testing.T, at string, size int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(at, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() != size || st.Mode().Perm() != 0o666 {
		t.Fatalf("%s is %v of %d bytes, %v; want a file of %d that everybody may write", at, st.Mode(), st.Size(), err, size)
	}
	return f
}

func TestRaw_IsAFileThatHasRoomForAllOfIt(t *testing.T) {
	s, _ := images(t)
	id := create(t, s, volume.New{Size: 256 * mib, FSType: "raw"})
	f := disk(t, mount(t, s, id), 256*mib)
	defer f.Close()
	full := bytes.Repeat([]byte{0xa5}, int(mib))
	for i := range int64(256) {
		if _, err := f.WriteAt(full, i*mib); err != nil {
			t.Fatalf("write MiB %d of 256: %v", i, err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	u, err := s.Usage(id)
	if err != nil || u.FSType != "raw" || u.TotalBytes != 256*mib || u.UsedBytes != 256*mib || u.BlocksFree != 0 {
		t.Errorf("Usage of a full one = %+v, %v", u, err)
	}
}

func TestRaw_KeepsIsCopiedAndGrows(t *testing.T) {
	s, dir := images(t)
	id := create(t, s, volume.New{Size: 64 * mib, FSType: "raw"})
	at := mount(t, s, id)
	end := 64*mib - 4
	put := func(text string) {
		t.Helper()
		f := disk(t, at, 64*mib)
		defer f.Close()
		if _, err := f.WriteAt([]byte(text), end); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(at string, size int64, want string) {
		t.Helper()
		f, got := disk(t, at, size), make([]byte, 4)
		defer f.Close()
		if _, err := f.ReadAt(got, end); err != nil && err != io.EOF || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", at, got, err, want)
		}
	}
	put("then")
	snap := gondola.NewSnapshotID()
	if _, of, err := s.Snapshot(t.Context(), id, snap); err != nil || of != 64*mib {
		t.Fatalf("Snapshot = %d, %v", of, err)
	}
	put("late")
	s = open(t, dir, "") // as after a restart
	later, err := s.Extend(t.Context(), id, 128*mib)
	if err != nil || later == mayResize(t) {
		t.Fatalf("Extend in use = %t, %v", later, err)
	}
	if later {
		if err := s.Unmount(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	holds(mount(t, s, id), 128*mib, "late")
	holds(mount(t, s, create(t, s, volume.New{Size: 64 * mib, Source: snap})), 64*mib, "then")
	holds(mount(t, s, create(t, s, volume.New{Size: 192 * mib, Source: id, FSType: "raw"})), 192*mib, "late")
	err = s.Create(t.Context(), volume.New{ID: string(gondola.NewVolumeID()), Owner: owner, Size: 64 * mib, Source: snap, FSType: "ext4"})
	if !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("a volume with ext4 from a snapshot without = %v", err)
	}
}

func TestRaw_OnAHostWithoutLoopDevices(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "volumes"), volume.Directory)
	id := create(t, s, volume.New{Size: 16 * mib, FSType: "raw"})
	disk(t, mount(t, s, id), 16*mib).Close()
	if later, err := s.Extend(t.Context(), id, 32*mib); later || err != nil {
		t.Errorf("Extend = %t, %v", later, err)
	}
	disk(t, mount(t, s, id), 32*mib).Close()
	if u, err := s.Usage(id); err != nil || u.FSType != "raw" || u.TotalBytes != 32*mib || u.UsedBytes > mib {
		t.Errorf("Usage = %+v, %v", u, err)
	}
}
