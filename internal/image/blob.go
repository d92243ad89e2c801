package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

// errDamaged means that content does not match the digest it goes by.
var errDamaged = errors.New("content does not match its digest")

func (s *Store) blobPath(digest string) string { return s.path("blobs", "sha256", hexOf(digest)) }

// hasBlob says whether a blob of this size is here. Its content was checked when it was written and is again when it is unpacked.
func (s *Store) hasBlob(d v1.Descriptor) bool {
	fi, err := os.Stat(s.blobPath(d.Digest.String()))
	return err == nil && fi.Mode().IsRegular() && (d.Size <= 0 || fi.Size() == d.Size)
}

// wholeBlob says whether a small blob is here and undamaged.
func (s *Store) wholeBlob(d v1.Descriptor) bool {
	_, err := s.readBlob(d.Digest.String())
	return err == nil
}

// putBlob copies r into the store, checking that it has the digest. On any error nothing is kept.
func (s *Store) putBlob(ctx context.Context, digest string, r io.Reader) error {
	f, err := os.CreateTemp(s.path("tmp"), "blob-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), contextReader{ctx, r}); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("blob %s came as %s: %w", digest, got, errDamaged)
	}
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	failpoint.Hit("image.blob.written")
	if err := os.Rename(f.Name(), s.blobPath(digest)); err != nil {
		return err
	}
	failpoint.Hit("image.blob.named")
	return durable.SyncDir(s.path("blobs", "sha256"))
}

// readBlob returns a small blob, checked. A damaged one is removed and counts as missing.
func (s *Store) readBlob(digest string) ([]byte, error) {
	b, err := os.ReadFile(s.blobPath(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotCached
	}
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != hexOf(digest) {
		s.log.Warn("removing a damaged blob", "digest", digest)
		if err := os.Remove(s.blobPath(digest)); err != nil {
			return nil, err
		}
		return nil, errNotCached
	}
	return b, nil
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
