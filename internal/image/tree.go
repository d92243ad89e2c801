package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

// tree is the directory of an unpacked image.
func (s *Store) tree(digest string) string { return s.path("trees", hexOf(digest), "rootfs") }

func (s *Store) marker(digest string) string { return s.path("trees", hexOf(digest), "complete") }

// complete is the content of a marker.
type complete struct {
	SizeBytes int64 `json:"size_bytes"` // of all files
}

// treeComplete says whether a tree is whole.
func (s *Store) treeComplete(digest string) bool {
	if _, err := os.Stat(s.tree(digest)); err != nil {
		return false
	}
	_, err := s.treeSize(digest)
	return err == nil
}

func (s *Store) treeSize(digest string) (int64, error) {
	b, err := os.ReadFile(s.marker(digest))
	if err != nil {
		return 0, fmt.Errorf("tree %s is not complete: %w", digest, err)
	}
	var c complete
	if err := json.Unmarshal(b, &c); err != nil {
		return 0, fmt.Errorf("tree %s is not complete: %w", digest, err)
	}
	return c.SizeBytes, nil
}

// unpackImage makes the tree of a manifest whose blobs are here, unless it is there. A blob whose content is damaged is removed and
// errDamaged returned.
func (s *Store) unpackImage(ctx context.Context, digest string) error {
	if s.treeComplete(digest) {
		return nil
	}
	m, c, err := s.manifest(digest)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "tree-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	u, err := newUnpacker(tmp+"/rootfs", s.log)
	if err != nil {
		return err
	}
	defer u.close()
	for i, l := range m.Layers {
		var diffID string
		if i < len(c.RootFS.DiffIDs) {
			diffID = c.RootFS.DiffIDs[i].String()
		}
		if err := s.unpackLayer(ctx, u, l, diffID); err != nil {
			return fmt.Errorf("layer %d (%s): %w", i+1, l.Digest, err)
		}
	}
	failpoint.Hit("image.tree.unpacked")
	return s.settle(u, tmp, digest)
}

// settle puts a finished tree on disk for good and in its place.
func (s *Store) settle(u *unpacker, tmp, digest string) error {
	if err := unix.Syncfs(u.rootFD()); err != nil {
		return fmt.Errorf("sync tree: %w", err)
	}
	b, err := json.Marshal(complete{SizeBytes: u.size})
	if err != nil {
		return err
	}
	if err := s.writeAtomic(tmp+"/complete", b); err != nil {
		return err
	}
	place := s.path("trees", hexOf(digest))
	// What is there has no marker: somebody removed a part of it. Renamed away first, since removing takes a while.
	if err := os.Rename(place, tmp+"-old"); err == nil {
		defer os.RemoveAll(tmp + "-old")
	}
	failpoint.Hit("image.tree.written")
	if err := os.Rename(tmp, place); err != nil {
		return err
	}
	failpoint.Hit("image.tree.named")
	return durable.SyncDir(s.path("trees"))
}

// unpackLayer applies one layer and checks what it read, compressed and not.
func (s *Store) unpackLayer(ctx context.Context, u *unpacker, l v1.Descriptor, diffID string) error {
	f, err := os.Open(s.blobPath(l.Digest.String()))
	if errors.Is(err, os.ErrNotExist) {
		return errDamaged
	}
	if err != nil {
		return err
	}
	defer f.Close()
	packed, plain := sha256.New(), sha256.New()
	in := io.TeeReader(contextReader{ctx, f}, packed)
	r, closeReader, err := decompress(in)
	if err == nil {
		defer closeReader()
		content := io.TeeReader(r, plain)
		if err = u.layer(content); err == nil {
			_, err = io.Copy(io.Discard, content) // padding behind the archive's end belongs to the digest
		}
		if err == nil {
			_, err = io.Copy(io.Discard, in)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		// A damaged blob mostly shows as an error of decompression: the digest of the whole tells which it is.
		if _, cerr := io.Copy(packed, f); cerr != nil {
			return cerr
		}
	}
	if got := sum(packed); got != l.Digest.String() {
		s.log.Warn("removing a damaged blob", "digest", l.Digest.String())
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		return fmt.Errorf("blob came as %s: %w", got, errDamaged)
	}
	if err != nil {
		return err
	}
	if got := sum(plain); diffID != "" && got != diffID {
		return fmt.Errorf("content has digest %s, the image's config says %s", got, diffID)
	}
	return nil
}

func sum(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// decompress tells gzip, zstd and plain archives apart by their first bytes: media types are often wrong.
func decompress(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 1<<16)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, nil, err
		}
		return zr, func() { zr.Close() }, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return zr, zr.Close, nil
	}
	return br, func() {}, nil
}
