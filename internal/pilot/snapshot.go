package pilot

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gondola"
	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

// A snapshot is a suspended Machine on disk, in Dir/snapshot: what the Runtime wrote, and a manifest, with which it is one: written last, when
// all else is on disk, and removed first, before anything of it runs again. So there is never a snapshot and a Machine that runs, and none is
// resumed twice. Of the containers, the root file systems stay where they are as long as there is a manifest.
const (
	snapshotDir      = "snapshot"
	snapshotManifest = "manifest.json"
	// checkedBytes is the size up to which files of a snapshot are compared by checksum when it is read. Larger ones are memory, which is read
	// while the Machine runs already: of these only the size is compared.
	checkedBytes = 16 << 20
)

// manifest says what a snapshot is of.
type manifest struct {
	Version    gondola.Version      `json:"version"`
	At         time.Time            `json:"at"`
	Containers map[string]string    `json:"containers"` // that ran → Container.Tree, over which their root file systems lie
	Files      map[string]fileCheck `json:"files"`
}

type fileCheck struct {
	Size int64  `json:"size"`
	Sum  uint32 `json:"sum,omitempty"` // CRC-32C; of a file of up to checkedBytes
}

func snapshotPath(dir string) string { return filepath.Join(dir, snapshotDir) }
func manifestPath(dir string) string { return filepath.Join(dir, snapshotDir, snapshotManifest) }

// HasSnapshot says whether the Machine whose directory is dir has been suspended and not been resumed.
func HasSnapshot(dir string) bool {
	_, err := os.Stat(manifestPath(dir))
	return err == nil
}

// DiscardSnapshot removes what there is of a snapshot. Again is harmless.
func DiscardSnapshot(dir string) error {
	err := os.Remove(manifestPath(dir))
	if err == nil {
		err = durable.SyncDir(snapshotPath(dir))
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("discard the snapshot: %w", err)
	}
	if err := os.RemoveAll(snapshotPath(dir)); err != nil {
		return fmt.Errorf("discard the snapshot: %w", err)
	}
	return nil
}

// makeSnapshot makes the directory for a new one.
func makeSnapshot(dir string) (string, error) {
	if err := DiscardSnapshot(dir); err != nil {
		return "", err
	}
	path := snapshotPath(dir)
	return path, os.Mkdir(path, 0o700)
}

// commitSnapshot makes a snapshot of the files that are there: it brings them to disk, then the manifest.
func commitSnapshot(dir string, m manifest, sync bool) error {
	path := snapshotPath(dir)
	m.Files = map[string]fileCheck{}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if m.Files[e.Name()], err = checkFile(filepath.Join(path, e.Name()), sync); err != nil {
			return err
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	failpoint.Hit("pilot.snapshot.synced")
	if err := writeFileAtomic(manifestPath(dir), b, 0o600, sync); err != nil {
		return err
	}
	if sync {
		err = durable.SyncDir(dir)
	}
	failpoint.Hit("pilot.snapshot.committed")
	return err
}

func checkFile(path string, sync bool) (c fileCheck, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	if sync {
		if err := f.Sync(); err != nil {
			return c, err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return c, err
	}
	if c.Size = info.Size(); c.Size > checkedBytes {
		return c, nil
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	_, err = io.Copy(h, f)
	c.Sum = h.Sum32()
	return c, err
}

// readSnapshot reads a manifest and looks whether the snapshot is whole and of this Spec.
func readSnapshot(spec Spec) (manifest, error) {
	var m manifest
	b, err := os.ReadFile(manifestPath(spec.Dir))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("its manifest is damaged: %w", err)
	}
	if m.Version != spec.Version {
		return m, gondola.Errorf(gondola.ErrPrecondition, "it is of version %s, and the machine of version %s", m.Version, spec.Version)
	}
	for name, want := range m.Files {
		got, err := checkFile(filepath.Join(spec.Dir, snapshotDir, name), false)
		if err != nil {
			return m, err
		}
		if got != want {
			return m, fmt.Errorf("its file %s is damaged", name)
		}
	}
	for name, tree := range m.Containers {
		if !slices.ContainsFunc(spec.Containers, func(c Container) bool { return c.Name == name && c.Tree == tree }) {
			return m, fmt.Errorf("its container %s is not the machine's, or has another image", name)
		}
	}
	return m, nil
}

// beginSnapshot takes a snapshot's right to be resumed, once and for ever; its files stay until DiscardSnapshot.
func beginSnapshot(dir string) error {
	failpoint.Hit("pilot.resume.begun")
	if err := os.Remove(manifestPath(dir)); err != nil {
		return err
	}
	err := durable.SyncDir(snapshotPath(dir))
	failpoint.Hit("pilot.resume.taken")
	return err
}
