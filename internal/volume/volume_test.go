package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gondola"
	"gondola/internal/volume"
)

const (
	mib   = int64(1) << 20
	owner = "local"
)

func open(t *testing.T, dir string, kind volume.Kind) *volume.Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	s, err := volume.Open(volume.Config{Dir: dir, Kind: kind, Reserve: mib})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := volume.Purge(dir); err != nil {
			t.Error(err)
		}
		if left := loops(t, dir); left != "" {
			t.Errorf("loop devices are left: %s", left)
		}
	})
	return s
}

// images opens a Store that keeps volumes as files with an ext4.
func images(t *testing.T) (*volume.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "volumes")
	s := open(t, dir, "")
	if kind, why := s.Kind(); kind != volume.Image {
		t.Fatalf("volumes are kept as %s here: %s", kind, why)
	}
	return s, dir
}

// loops lists the loop devices of files below dir; one that is on its way out is given a moment.
func loops(t *testing.T, dir string) string {
	t.Helper()
	for begin := time.Now(); ; {
		var left []string
		names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, n := range names {
			if b, _ := os.ReadFile(n); strings.HasPrefix(string(b), dir) {
				left = append(left, n)
			}
		}
		if len(left) == 0 || time.Since(begin) > 5*time.Second {
			return strings.Join(left, " ")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func create(t *testing.T, s *volume.Store, v volume.New) string {
	t.Helper()
	v.ID, v.Owner = string(gondola.NewVolumeID()), owner
	if err := s.Create(t.Context(), v); err != nil {
		t.Fatalf("Create(%+v) = %v", v, err)
	}
	return v.ID
}

func mount(t *testing.T, s *volume.Store, id string) string {
	t.Helper()
	dir, err := s.Mount(t.Context(), id, volume.Mount{})
	if err != nil {
		t.Fatalf("Mount(%s) = %v", id, err)
	}
	return dir
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, dir, name, content string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != content {
		t.Errorf("%s holds %q, %v, want %q", name, b, err, content)
	}
}

func size(t *testing.T, dir string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks) * st.Bsize
}

// mayResize says whether this process has CAP_SYS_RESOURCE, which the kernel wants for resizing an ext4 in use.
func mayResize(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "CapEff:\t")
	caps, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	const sysResource = 24
	return caps>>sysResource&1 == 1
}

func TestVolume_KeepsWhatIsWrittenFromMountToMount(t *testing.T) {
	s, dir := images(t)
	id := create(t, s, volume.New{Size: 64 * mib})
	at := mount(t, s, id)
	if entries, _ := os.ReadDir(at); len(entries) != 0 {
		t.Errorf("a new volume holds %v, want nothing: databases refuse a directory that is not empty", entries)
	}
	put(t, at, "a", "kept")
	if again := mount(t, s, id); again != at {
		t.Errorf("Mount again = %s, want %s", again, at)
	}
	if err := s.Unmount(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if left := loops(t, dir); left != "" {
		t.Errorf("after Unmount there are loop devices: %s", left)
	}
	if _, err := os.Stat(filepath.Join(at, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is visible after Unmount: %v", err)
	}
	s = open(t, dir, "") // as after a restart
	wants(t, mount(t, s, id), "a", "kept")
	if err := s.Create(t.Context(), volume.New{ID: id, Owner: owner, Size: 64 * mib}); err != nil {
		t.Errorf("Create of a volume that is there = %v", err)
	}
	wants(t, at, "a", "kept")
}

func TestVolume_IsOfItsSizeAndNoLarger(t *testing.T) {
	s, _ := images(t)
	id := create(t, s, volume.New{Size: 16 * mib})
	at := mount(t, s, id)
	err := os.WriteFile(filepath.Join(at, "big"), make([]byte, 20*mib), 0o644)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing 20 MiB into a volume of 16 = %v, want %v", err, syscall.ENOSPC)
	}
	u, err := s.Usage(id)
	if err != nil || u.FSType != "ext4" || u.BlockSize != 4096 || u.TotalBytes > 16*mib || u.UsedBytes < 10*mib {
		t.Errorf("Usage = %+v, %v", u, err)
	}
}

func TestVolume_ExtendsWhileInUseAndAtRest(t *testing.T) {
	s, _ := images(t)
	id := create(t, s, volume.New{Size: 16 * mib})
	at := mount(t, s, id)
	f, err := os.Create(filepath.Join(at, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	later, err := s.Extend(t.Context(), id, 48*mib)
	if err != nil || later != !mayResize(t) {
		t.Fatalf("Extend in use = later %t, %v; this process may resize: %t", later, err, mayResize(t))
	}
	if later {
		f.Close()
		if err := s.Unmount(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		at = mount(t, s, id)
		if f, err = os.Create(filepath.Join(at, "open")); err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	if got := size(t, at); got < 40*mib {
		t.Errorf("size after Extend in use = %d MiB, want about 48", got/mib)
	}
	if _, err := f.Write(make([]byte, 30*mib)); err != nil {
		t.Errorf("write 30 MiB = %v", err)
	}
	f.Close()
	if err := s.Unmount(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if later, err := s.Extend(t.Context(), id, 96*mib); err != nil || later {
		t.Fatalf("Extend at rest = %t, %v", later, err)
	}
	if got := size(t, mount(t, s, id)); got < 80*mib {
		t.Errorf("size after Extend at rest = %d MiB, want about 96", got/mib)
	}
}

func TestVolume_SnapshotIsOfOneMomentWhileSomebodyWrites(t *testing.T) {
	s, _ := images(t)
	id := create(t, s, volume.New{Size: 32 * mib})
	at := mount(t, s, id)
	put(t, at, "a", "then")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = os.WriteFile(filepath.Join(at, "noise"), make([]byte, mib), 0o644)
		}
	}()
	snap := gondola.NewSnapshotID()
	taken, of, err := s.Snapshot(t.Context(), id, snap)
	stop()
	<-done
	if err != nil || of != 32*mib || taken <= 0 || taken > of {
		t.Fatalf("Snapshot = %d, %d, %v", taken, of, err)
	}
	put(t, at, "a", "now")
	if _, _, err := s.Snapshot(t.Context(), id, snap); err != nil { // found made
		t.Errorf("Snapshot again = %v", err)
	}
	restored := create(t, s, volume.New{Size: 64 * mib, Source: snap})
	back := mount(t, s, restored)
	wants(t, back, "a", "then")
	if got := size(t, back); got < 56*mib {
		t.Errorf("a volume of 64 MiB from a snapshot of 32 has %d", got/mib)
	}
	fork := create(t, s, volume.New{Size: 32 * mib, Source: id})
	wants(t, mount(t, s, fork), "a", "now")
	for _, gone := range []string{snap, restored, fork, id} {
		if err := s.Delete(t.Context(), gone); err != nil {
			t.Errorf("Delete(%s) = %v", gone, err)
		}
		if err := s.Delete(t.Context(), gone); err != nil {
			t.Errorf("Delete(%s) again = %v", gone, err)
		}
	}
	if ids, err := s.Leftovers(owner); err != nil || len(ids) != 0 {
		t.Errorf("Leftovers after all was deleted = %v, %v", ids, err)
	}
}

func TestStore_SellsNoMoreDiskThanThereIs(t *testing.T) {
	s, _ := images(t)
	free, total, err := s.Room()
	if err != nil || free <= 0 || total < free {
		t.Fatalf("Room = %d, %d, %v", free, total, err)
	}
	err = s.Create(t.Context(), volume.New{ID: string(gondola.NewVolumeID()), Owner: owner, Size: free + 512*mib})
	if !errors.Is(err, gondola.ErrCapacity) {
		t.Errorf("Create of more than is free = %v, want ErrCapacity", err)
	}
	create(t, s, volume.New{Size: 1 << 30})
	after, _, err := s.Room()
	if left := free - after; err != nil || left < 900*mib {
		t.Errorf("an empty volume of 1 GiB took %d MiB of the room: it is promised the rest", left/mib)
	}
}

func TestStore_RemovesWhatACrashLeft(t *testing.T) {
	s, dir := images(t)
	id := create(t, s, volume.New{Size: 16 * mib})
	at := mount(t, s, id)
	put(t, at, "a", "x")
	half := filepath.Join(dir, ".new-123")
	if err := os.MkdirAll(filepath.Join(half, "mnt"), 0o700); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, "")
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was half made is still there: %v", err)
	}
	wants(t, at, "a", "x") // what is in use stays in use
	if err := s.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if left := loops(t, dir); left != "" {
		t.Errorf("deleting a volume in use leaves %s", left)
	}
}

func TestStore_ThawsWhatACrashLeftFrozen(t *testing.T) {
	s, dir := images(t)
	at := mount(t, s, create(t, s, volume.New{Size: 16 * mib}))
	f, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const freeze = 0xc0045877
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), freeze, 0); errno != 0 {
		t.Fatal(errno)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(filepath.Join(at, "a"), []byte("x"), 0o644) }()
	open(t, dir, "")
	select {
	case err := <-wrote:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a writer still stands before a frozen volume after Open")
	}
}

func TestMount_GivesAVolumeToItsGroup(t *testing.T) {
	s, _ := images(t)
	id := create(t, s, volume.New{Size: 16 * mib})
	at := mount(t, s, id)
	put(t, at, "old", "x")
	group := int64(2345)
	if _, err := s.Mount(t.Context(), id, volume.Mount{Group: &group}); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".": os.ModeDir | os.ModeSetgid | 0o777, "old": 0o664} {
		st, err := os.Stat(filepath.Join(at, name))
		if err != nil || st.Mode() != mode || st.Sys().(*syscall.Stat_t).Gid != 2345 {
			t.Errorf("%s is %v of group %d, %v, want %v", name, st.Mode(), st.Sys().(*syscall.Stat_t).Gid, err, mode)
		}
	}
	if err := os.Chown(filepath.Join(at, "old"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mount(t.Context(), id, volume.Mount{Group: &group, OnMismatch: true}); err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(filepath.Join(at, "old")); st.Sys().(*syscall.Stat_t).Gid != 0 {
		t.Error("with OnMismatch a file was changed although the root is as it shall be")
	}
}

func TestDirectory_CountsButCannotCopy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volumes")
	s := open(t, dir, volume.Directory)
	id := create(t, s, volume.New{Size: 1 << 30})
	at := mount(t, s, id)
	put(t, at, "a", "kept")
	if err := s.Unmount(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	wants(t, mount(t, s, id), "a", "kept")
	if u, err := s.Usage(id); err != nil || u.FSType != "directory" || u.TotalBytes != 1<<30 {
		t.Errorf("Usage = %+v, %v", u, err)
	}
	if _, _, err := s.Snapshot(t.Context(), id, gondola.NewSnapshotID()); !errors.Is(err, gondola.ErrUnsupported) {
		t.Errorf("Snapshot of a directory = %v, want ErrUnsupported", err)
	}
	if _, err := s.Extend(t.Context(), id, 2<<30); err != nil {
		t.Errorf("Extend = %v", err)
	}
	if err := s.Delete(t.Context(), id); err != nil {
		t.Error(err)
	}
}
