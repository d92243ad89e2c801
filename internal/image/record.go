package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

// record is what the index holds of one reference.
type record struct {
	Reference string `json:"reference"` // canonical
	Name      string `json:"name"`      // without tag and digest
	Resolved  string `json:"resolved"`  // digest that the reference stands for: of an index or a manifest
	Manifest  string `json:"manifest"`  // digest of the manifest for this platform
	Source    string `json:"source,omitempty"`
}

// errNotCached means that an image, or a part of it, is not in the store.
var errNotCached = errors.New("not in the image store")

// lookup returns the record of a canonical reference, or errNotCached.
func (s *Store) lookup(canonical string) (record, error) {
	rec, err := readRecord(s.path("refs", refFile(canonical)))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, errNotCached
	}
	return rec, err
}

func readRecord(path string) (record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil || rec.Manifest == "" {
		// Written atomically, so only a damaged disk does this; the image is simply fetched again.
		return record{}, fs.ErrNotExist
	}
	return rec, nil
}

// save puts a record into the index.
func (s *Store) save(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return s.writeAtomic(s.path("refs", refFile(rec.Reference)), b)
}

// touch notes that a reference was used now.
func (s *Store) touch(rec record) {
	now := time.Now()
	if err := os.Chtimes(s.path("refs", refFile(rec.Reference)), now, now); err != nil {
		s.log.Debug("note the use of an image", "reference", rec.Reference, "err", err)
	}
	s.mu.Lock()
	s.used[rec.Manifest] = now
	s.mu.Unlock()
}

// writeAtomic writes a small file so that it is there completely or not at all, power loss included.
func (s *Store) writeAtomic(path string, data []byte) error {
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	failpoint.Hit("image.file.written")
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// manifest reads and checks a manifest and its config from the store; errNotCached when one is missing or damaged.
func (s *Store) manifest(digest string) (*v1.Manifest, *v1.ConfigFile, error) {
	raw, err := s.readBlob(digest)
	if err != nil {
		return nil, nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, fmt.Errorf("read manifest %s: %w", digest, err)
	}
	raw, err = s.readBlob(m.Config.Digest.String())
	if err != nil {
		return nil, nil, err
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, fmt.Errorf("read config %s: %w", m.Config.Digest, err)
	}
	return m, c, nil
}

// image describes the image of a record whose tree is complete.
func (s *Store) image(asked string, rec record) (Image, error) {
	m, c, err := s.manifest(rec.Manifest)
	if err != nil {
		return Image{}, err
	}
	config, err := s.readBlob(m.Config.Digest.String())
	if err != nil {
		return Image{}, err
	}
	size, err := s.treeSize(rec.Manifest)
	if err != nil {
		return Image{}, err
	}
	return Image{
		Reference: asked, ID: rec.Name + "@" + rec.Resolved, Digest: rec.Manifest,
		Tree: s.tree(rec.Manifest), SizeBytes: size,
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env,
		WorkingDir: c.Config.WorkingDir, User: c.Config.User, StopSignal: c.Config.StopSignal, Config: config,
	}, nil
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
