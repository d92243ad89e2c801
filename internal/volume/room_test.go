package volume_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
		dir := ownDisk(t, 256*mib)
		id := create(t, open(t, dir, volume.Directory), volume.New{Size: 128 * mib, FSType: fsType})
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
		if _, err := f.Write(make([]byte, 50*mib)); err != nil {
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
			t.Errorf("fstype %q: Room = %d of %d MiB before and %d of %d after 50 were written of the 128 that are sold, want the same", fsType, free, total, nowFree, nowTotal)
		}
	}
}

// emptyXFS is how an empty xfs of 1 GiB in blocks of 4 KiB begins, with reflink: one group, inodes in blocks 8 to 15. All else, the log too, is zero.
//
//go:embed testdata/xfs.gz
var emptyXFS []byte

// cloningDisk mounts a disk on which files can share blocks, and returns where volumes lie on it.
func cloningDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	head, err := gzip.NewReader(bytes.NewReader(emptyXFS))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(head)
	if err != nil {
		t.Fatal(err)
	}
	image, at := filepath.Join(t.TempDir(), "xfs"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, b, 0o600), os.Truncate(image, 1<<30)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mount", "-t", "xfs", "-o", "loop", image, at).CombinedOutput()
	if strings.Contains(string(out), "unknown filesystem type") {
		t.Skip("this kernel has no xfs")
	}
	if err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return filepath.Join(at, "volumes")
}

func TestStore_SellsWhatACopySharesOnce(t *testing.T) {
	s := open(t, cloningDisk(t), volume.Image)
	id := create(t, s, volume.New{Size: 200 * mib})
	if err := os.WriteFile(filepath.Join(mount(t, s, id), "data"), make([]byte, 150*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	snapshot := gondola.NewSnapshotID()
	_, _, err := s.Snapshot(t.Context(), id, snapshot)
	if err != nil {
		t.Fatal(err)
	}
	_, disk := roomOf(t, s)
	for _, source := range []string{id, snapshot} {
		before, _ := roomOf(t, s)
		create(t, s, volume.New{Size: 200 * mib, Source: source})
		free, total := roomOf(t, s)
		if sold := before - free; sold < 195 || sold > 205 {
			t.Errorf("a copy of %s of 200 MiB, which shares what was written with it, counts as %d", source, sold)
		}
		if total < disk-5 || total > disk+5 {
			t.Errorf("all volumes may take %d MiB before and %d after a copy of %s", disk, total, source)
		}
	}
	volumes := int64(3)
	for ; err == nil && volumes*200 <= disk; volumes++ {
		err = s.Create(t.Context(), volume.New{ID: string(gondola.NewVolumeID()), Owner: owner, Size: 200 * mib, Source: id})
	}
	if !errors.Is(err, gondola.ErrCapacity) {
		t.Errorf("%d volumes of 200 MiB are sold on a disk for %d MiB: %v", volumes, disk, err)
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
