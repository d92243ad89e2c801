package volume_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/volume"
)

// ownDisk mounts a disk that nobody else writes to, and returns where volumes lie on it.
func ownDisk(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	at := t.TempDir()
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(at, "volumes")
}

// roomOf is Store.Room in MiB.
func roomOf(t *testing.T, s *volume.Store) (free, total int64) {
	t.Helper()
	free, total, err := s.Room()
	if err != nil {
		t.Fatal(err)
	}
	return free / mib, total / mib
}

func TestStore_TellsADiskAsLargeAsItIs(t *testing.T) {
	s := open(t, ownDisk(t, 3<<30), "")
	const disk = 3<<10 - 1 // MiB; the reserve is one
	if free, total := roomOf(t, s); free != disk || total != disk {
		t.Fatalf("Room of an empty disk = %d of %d MiB, want %d of %d", free, total, disk, disk)
	}
	id := create(t, s, volume.New{Size: 1 << 30})
	free, total := roomOf(t, s)
	if lost := disk - total; lost < 0 || lost > 1 {
		t.Errorf("with a volume of 1 GiB all of them may take %d MiB, want %d as before", total, disk)
	}
	if sold := total - free; sold < 1<<10-1 || sold > 1<<10+1 {
		t.Errorf("of %d MiB %d are free, so a volume of 1024 counts as %d", total, free, sold)
	}
	if err := os.WriteFile(filepath.Join(mount(t, s, id), "data"), make([]byte, 100*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if nowFree, nowTotal := roomOf(t, s); nowFree < free-1 || nowTotal < total-1 || nowTotal > total+1 {
		t.Errorf("Room = %d of %d MiB before and %d of %d after the volume was written to, want the same", free, total, nowFree, nowTotal)
	}
}

func TestDirectory_CountsWhatIsWrittenOnce(t *testing.T) {
	for fsType, file := range map[string]string{"": "data/file", "raw": "."} {
		dir := ownDisk(t, 1<<30)
		id := create(t, open(t, dir, volume.Directory), volume.New{Size: 512 * mib, FSType: fsType})
		s := open(t, dir, volume.Directory)
		free, total := roomOf(t, s)
		at := filepath.Join(mount(t, s, id), file)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(at, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 200*mib)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if fsType == "" {
			if err := os.Link(at, at+"-again"); err != nil {
				t.Fatal(err)
			}
		}
		s = open(t, dir, volume.Directory) // this one has not looked before
		if nowFree, nowTotal := roomOf(t, s); nowFree < free-1 || nowFree > free+1 || nowTotal < total-1 || nowTotal > total+1 {
			t.Errorf("fstype %q: Room = %d of %d MiB before and %d of %d after 200 were written of the 512 that are sold, want the same", fsType, free, total, nowFree, nowTotal)
		}
	}
}

// TestStore_CopiesSideBySideNeedRoomTogether: each of them would fit alone.
func TestStore_CopiesSideBySideNeedRoomTogether(t *testing.T) {
	s, dir := images(t)
	data := make([]byte, 200*mib)
	rand.Read(data)
	var ids []string
	for range 2 {
		id := create(t, s, volume.New{Size: 256 * mib})
		if err := os.WriteFile(filepath.Join(mount(t, s, id), "data"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Unmount(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	free, _, err := s.Room()
	if err != nil {
		t.Fatal(err)
	}
	s, err = volume.Open(volume.Config{Dir: dir, Reserve: free + mib - 380*mib}) // leaves room for one copy and most of another
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, id := range ids {
		wg.Go(func() { _, _, errs[i] = s.Snapshot(t.Context(), id, string(gondola.NewSnapshotID())) })
	}
	wg.Wait()
	refused := 0
	for _, err := range errs {
		if errors.Is(err, gondola.ErrCapacity) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d of two copies are refused (%v), want one", refused, errs)
	}
	if now, _, err := s.Room(); err != nil || now < 60*mib {
		t.Errorf("Room = %d MiB, %v; what was reserved for a copy is not given back", now/mib, err)
	}
}
