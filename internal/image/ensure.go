package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"gondola"
)

// Ensure makes the image of a reference available and returns it. Callers that ask for the same at the same time share one pull, which goes
// on as long as one of them waits.
//
// Errors are for the user and name the reference and the way out: gondola.ErrImage when the image does not exist, access is denied, it is
// for another platform or no image at all, or policy is Never and it is not here; gondola.ErrUnavailable when the registry does not answer
// or sends damaged content.
func (s *Store) Ensure(ctx context.Context, asked string, policy Policy, credentials []gondola.RegistryCredential) (Image, error) {
	r, err := parseReference(asked)
	if err != nil {
		return Image{}, err
	}
	switch policy {
	case "":
		policy = IfNotPresent
	case Always, IfNotPresent, Never:
	default:
		return Image{}, gondola.Errorf(gondola.ErrInvalid, "image pull policy %q: use always, if_not_present or never", policy)
	}
	creds, err := json.Marshal(credentials)
	if err != nil {
		return Image{}, err
	}
	sum := sha256.Sum256(creds) // whoever shares a pull has shown the same credentials
	key := string(policy) + " " + r.canonical() + " " + hex.EncodeToString(sum[:])
	rec, err := s.ensures.do(ctx, key, func(ctx context.Context) (record, error) {
		return s.ensure(ctx, r, policy, credentials)
	})
	if err != nil {
		return Image{}, err
	}
	return s.image(asked, rec)
}

func (s *Store) ensure(ctx context.Context, r reference, policy Policy, credentials []gondola.RegistryCredential) (record, error) {
	if policy != Always || r.builtin() {
		rec, err := s.cached(ctx, r)
		if err == nil || !errors.Is(err, errNotCached) {
			return rec, err
		}
	}
	switch {
	case r.builtin():
		return s.helloAgain(ctx, r)
	case policy == Never:
		return record{}, gondola.Errorf(gondola.ErrImage,
			"image %s is not on this host and its pull policy is Never: run `gondola image import`, or use another pull policy", r.asked)
	}
	return s.pull(ctx, r, credentials)
}

// cached returns the record of an image that is here, its tree made again from the blobs where it is missing; else errNotCached.
func (s *Store) cached(ctx context.Context, r reference) (record, error) {
	rec, err := s.lookup(r.canonical())
	if err != nil {
		return record{}, err
	}
	s.touch(rec) // before the checks, so that Prune stays away
	m, _, err := s.manifest(rec.Manifest)
	if err != nil {
		return record{}, err
	}
	if s.treeComplete(rec.Manifest) {
		return rec, nil
	}
	defer s.pin(rec.Manifest, m)()
	_, err = s.fills.do(ctx, rec.Manifest, func(ctx context.Context) (record, error) {
		defer s.pin(rec.Manifest, m)() // of its own, as that of a fetch
		return rec, s.unpackImage(ctx, rec.Manifest)
	})
	if errors.Is(err, errDamaged) {
		return record{}, errNotCached // the damaged blob is gone; a pull fetches it again
	}
	if err != nil {
		return record{}, fmt.Errorf("unpack image %s: %w", r.asked, err)
	}
	s.touch(rec) // that may have taken long
	return rec, nil
}

// Cached says whether an image is here, ready to use, without asking a registry.
func (s *Store) Cached(asked string) bool {
	r, err := parseReference(asked)
	if err != nil {
		return false
	}
	rec, err := s.lookup(r.canonical())
	return err == nil && s.treeComplete(rec.Manifest)
}
