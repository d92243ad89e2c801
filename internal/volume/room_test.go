package volume_test

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"gondola"
	"gondola/internal/volume"
)

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
