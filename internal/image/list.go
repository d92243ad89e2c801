package image

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gondola"
	"gondola/internal/failpoint"
)

// pruneGrace is how long an image that Ensure gave out counts as in use: its Machine may not be on record yet.
const pruneGrace = 5 * time.Second

// List returns the images of the store, one entry for each reference, sorted by reference. Worker is left empty.
func (s *Store) List(ctx context.Context) ([]gondola.ImageInfo, error) {
	recs, err := s.records()
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var list []gondola.ImageInfo
	for _, r := range recs {
		size, err := s.treeSize(r.Manifest)
		if err != nil {
			continue // its tree is being made, or will be when it is asked for
		}
		list = append(list, gondola.ImageInfo{Reference: r.Reference, Digest: r.Manifest, SizeBytes: size, LastUsed: r.lastUsed})
	}
	slices.SortFunc(list, func(a, b gondola.ImageInfo) int { return cmp.Compare(a.Reference, b.Reference) })
	return list, ctx.Err()
}

// usedRecord is a record with what the file system knows of it.
type usedRecord struct {
	record
	path     string
	lastUsed time.Time
}

func (s *Store) records() ([]usedRecord, error) {
	entries, err := os.ReadDir(s.path("refs"))
	if err != nil {
		return nil, err
	}
	var recs []usedRecord
	for _, e := range entries {
		path := s.path("refs", e.Name())
		rec, err := readRecord(path)
		if err != nil {
			continue
		}
		fi, err := os.Stat(path)
		if err != nil {
			continue
		}
		recs = append(recs, usedRecord{rec, path, fi.ModTime()})
	}
	return recs, nil
}

// Prune removes every image whose digest (Image.Digest) inUse does not have, and blobs and trees that no image needs, and returns how much
// disk space that gave back. Built-in images, those being pulled, and those given out a few seconds ago stay.
func (s *Store) Prune(ctx context.Context, inUse map[string]bool) (freedBytes int64, err error) {
	doomed, err := s.condemn(inUse)
	if err != nil {
		return 0, fmt.Errorf("prune images: %w", err)
	}
	for _, path := range doomed {
		failpoint.Hit("image.prune.condemned")
		freedBytes += diskUsage(path)
		if err := os.RemoveAll(path); err != nil {
			return freedBytes, fmt.Errorf("prune images: %w", err)
		}
	}
	return freedBytes, ctx.Err()
}

// condemn takes out of the store what is to go, by renames into tmp, and returns where it is. It holds the lock, so that a pull either
// has pinned its blobs before or finds them missing.
func (s *Store) condemn(inUse map[string]bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	recs, err := s.records()
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{} // hex digests
	for d := range s.pins {
		keep[hexOf(d)] = true
	}
	for _, r := range recs {
		parsed, err := parseReference(r.Reference)
		builtin := err == nil && parsed.builtin()
		if !builtin && !inUse[r.Manifest] && s.pins[r.Manifest] == 0 && time.Since(s.used[r.Manifest]) > pruneGrace {
			if err := os.Remove(r.path); err != nil {
				return nil, err
			}
			failpoint.Hit("image.prune.forgotten")
			continue
		}
		keep[hexOf(r.Manifest)] = true
		m, _, err := s.manifest(r.Manifest)
		if err != nil {
			continue // damaged: fetched again when it is asked for
		}
		keep[m.Config.Digest.Hex] = true
		for _, l := range m.Layers {
			keep[l.Digest.Hex] = true
		}
	}
	for d := range inUse { // a tree in use stays even if its reference went on to another digest
		keep[hexOf(d)] = true
	}
	grave, err := os.MkdirTemp(s.path("tmp"), "prune-")
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"blobs/sha256", "trees"} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if keep[e.Name()] {
				continue
			}
			if err := os.Rename(s.path(dir, e.Name()), filepath.Join(grave, filepath.Base(dir)+"-"+e.Name())); err != nil {
				return nil, err
			}
			failpoint.Hit("image.prune.buried")
		}
	}
	return []string{grave}, nil
}

// diskUsage is the size of all files below a path.
func diskUsage(path string) (n int64) {
	// Errors leave something out of a figure for people; the removal that follows tells them.
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if fi, err := d.Info(); err == nil {
			n += fi.Size()
		}
		return nil
	})
	return n
}
