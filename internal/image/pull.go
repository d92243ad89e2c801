package image

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"gondola"
	"gondola/internal/failpoint"
)

// layersAtOnce is how many layers of an image are fetched at the same time, as Docker does.
const layersAtOnce = 3

// pull fetches an image from its registry's mirror or the registry itself and unpacks it.
func (s *Store) pull(ctx context.Context, r reference, credentials []gondola.RegistryCredential) (record, error) {
	sources, err := s.sources(r)
	if err != nil {
		return record{}, err
	}
	for _, src := range sources {
		var rec record
		if rec, err = s.pullFrom(ctx, r, src, credentials); err == nil {
			return rec, nil
		}
		if ctx.Err() != nil {
			return record{}, ctx.Err()
		}
		s.log.Debug("pull", "reference", r.asked, "from", src.repo.Name(), "err", err)
	}
	return record{}, explain(r, err) // of the last source, the registry itself
}

// pullFrom fetches from one source, trying one credential after the other as a kubelet does.
func (s *Store) pullFrom(ctx context.Context, r reference, src source, credentials []gondola.RegistryCredential) (rec record, err error) {
	for _, auth := range authenticators(ctx, src.repo, credentials) {
		var p *remote.Puller
		p, err = remote.NewPuller(remote.WithAuth(auth), remote.WithTransport(src.transport), remote.WithContext(ctx),
			remote.WithUserAgent("gondola"), remote.WithRetryBackoff(remote.Backoff{Duration: 200e6, Factor: 3, Jitter: 0.1, Steps: 3}))
		if err != nil {
			return record{}, err
		}
		rec, err = s.fetch(ctx, r, src.repo, p)
		if err == nil || !denied(err) {
			return rec, err
		}
	}
	return rec, err
}

// fetch resolves the reference with p and makes sure of blobs and tree.
func (s *Store) fetch(ctx context.Context, r reference, repo name.Repository, p *remote.Puller) (record, error) {
	var ref name.Reference = repo.Tag(r.ref.Identifier())
	if d, ok := r.ref.(name.Digest); ok {
		ref = repo.Digest(d.DigestStr())
	}
	top, err := p.Get(ctx, ref)
	if err != nil {
		return record{}, err
	}
	desc := top
	for depth := 0; desc.MediaType.IsIndex(); depth++ {
		child, err := s.choose(r, desc.Manifest)
		if err != nil {
			return record{}, err
		}
		if depth > 3 {
			return record{}, gondola.Errorf(gondola.ErrImage, "image %s is an index of an index of an index: name a manifest by its digest", r.asked)
		}
		if desc, err = p.Get(ctx, repo.Digest(child.Digest.String())); err != nil {
			return record{}, err
		}
	}
	rec := record{Reference: r.canonical(), Name: r.name(), Resolved: top.Digest.String(), Manifest: desc.Digest.String()}
	m, err := imageManifest(r, desc.MediaType, desc.Manifest)
	if err != nil {
		return record{}, err
	}
	unpin := s.pin(rec.Manifest, m)
	defer unpin()
	if _, err := s.fills.do(ctx, rec.Manifest, func(ctx context.Context) (record, error) {
		unpin := s.pin(rec.Manifest, m) // of its own: this run may outlive the caller that began it
		defer unpin()
		return rec, s.fill(ctx, r, repo, p, desc.Manifest, rec.Manifest, m)
	}); err != nil {
		return record{}, err
	}
	failpoint.Hit("image.pull.filled")
	if err := s.save(rec); err != nil {
		return record{}, err
	}
	s.touch(rec) // before it is given free
	return rec, nil
}

// fill makes blobs and tree of one manifest complete.
func (s *Store) fill(ctx context.Context, r reference, repo name.Repository, p *remote.Puller, raw []byte, digest string, m *v1.Manifest) error {
	// A layer found damaged on disk is gone then, and the next round fetches it again.
	for round := 0; ; round++ {
		if err := s.download(ctx, r, repo, p, m); err != nil {
			return err
		}
		if err := s.putBlob(ctx, digest, bytes.NewReader(raw)); err != nil {
			return err
		}
		if err := s.checkPlatform(r, digest); err != nil {
			return err
		}
		err := s.unpackImage(ctx, digest)
		if err == nil || ctx.Err() != nil || round > len(m.Layers) || !isDamaged(err) {
			return unpackError(r, err)
		}
	}
}

// download fetches the blobs of an image that are not here.
func (s *Store) download(ctx context.Context, r reference, repo name.Repository, p *remote.Puller, m *v1.Manifest) error {
	progress := Progress{Reference: r.asked}
	for _, l := range m.Layers {
		progress.Total += l.Size
	}
	var done atomic.Int64
	report := func(n int64) {
		if s.progress != nil {
			now := progress
			now.Done = done.Add(n)
			s.progress(now)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(layersAtOnce)
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		count := func(n int64) {
			if d.Digest != m.Config.Digest {
				report(n)
			}
		}
		g.Go(func() error {
			if s.hasBlob(d) && (d.Digest != m.Config.Digest || s.wholeBlob(d)) {
				count(d.Size)
				return nil
			}
			l, err := p.Layer(ctx, repo.Digest(d.Digest.String()))
			if err != nil {
				return err
			}
			rc, err := l.Compressed()
			if err != nil {
				return err
			}
			defer rc.Close()
			var in io.Reader = rc
			if d.Size > 0 {
				in = io.LimitReader(rc, d.Size) // what comes beyond makes it a damaged one
			}
			return s.putBlob(ctx, d.Digest.String(), &countingReader{r: in, count: count})
		})
	}
	return g.Wait()
}

// countingReader tells how much was read, a megabyte at a time.
type countingReader struct {
	r       io.Reader
	count   func(int64)
	pending int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.pending += int64(n)
	if c.pending >= 1<<20 || err != nil {
		c.count(c.pending)
		c.pending = 0
	}
	return n, err
}

// choose picks the manifest for this host's platform from an index.
func (s *Store) choose(r reference, raw []byte) (v1.Descriptor, error) {
	idx, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return v1.Descriptor{}, gondola.Errorf(gondola.ErrImage, "image %s has an index that cannot be read: %w", r.asked, err)
	}
	var have []string
	for _, d := range idx.Manifests {
		if d.Platform == nil && (d.MediaType.IsImage() || d.MediaType.IsIndex()) && len(idx.Manifests) == 1 {
			return d, nil // its config tells the platform
		}
		if d.Platform == nil || d.Platform.OS == "unknown" { // attestations
			continue
		}
		if d.Platform.OS == s.platform.OS && d.Platform.Architecture == s.platform.Architecture {
			return d, nil
		}
		have = append(have, d.Platform.String())
	}
	if len(have) == 0 {
		return v1.Descriptor{}, gondola.Errorf(gondola.ErrImage, "%s is an index without images", r.asked)
	}
	slices.Sort(have)
	return v1.Descriptor{}, gondola.Errorf(gondola.ErrImage, "image %s is not made for %s: it is there for %s; build it for %s too",
		r.asked, s.platform, strings.Join(slices.Compact(have), ", "), s.platform)
}

// imageManifest parses a manifest and makes sure that it is one of a container image.
func imageManifest(r reference, media types.MediaType, raw []byte) (*v1.Manifest, error) {
	if !media.IsImage() {
		return nil, gondola.Errorf(gondola.ErrImage, "%s is not a container image (%s): rebuild it with a current tool", r.asked, media)
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, gondola.Errorf(gondola.ErrImage, "image %s has a manifest that cannot be read: %w", r.asked, err)
	}
	if !m.Config.MediaType.IsConfig() {
		return nil, gondola.Errorf(gondola.ErrImage, "%s is not a container image but an artifact of type %s: use its own tool to get it",
			r.asked, m.Config.MediaType)
	}
	for _, l := range m.Layers {
		if !l.MediaType.IsLayer() {
			return nil, gondola.Errorf(gondola.ErrImage, "image %s has a layer of unknown type %s", r.asked, l.MediaType)
		}
		if !l.MediaType.IsDistributable() && len(l.URLs) > 0 {
			return nil, gondola.Errorf(gondola.ErrImage, "image %s has a layer that its registry may not hand out (%s): build it on a Linux base", r.asked, l.MediaType)
		}
	}
	return m, nil
}

// checkPlatform refuses an image that was made for another platform.
func (s *Store) checkPlatform(r reference, digest string) error {
	_, c, err := s.manifest(digest)
	if err != nil {
		return gondola.Errorf(gondola.ErrImage, "image %s has a config that cannot be read: %w", r.asked, err)
	}
	if c.OS != "" && c.OS != s.platform.OS || c.Architecture != "" && c.Architecture != s.platform.Architecture {
		return gondola.Errorf(gondola.ErrImage, "image %s is made for %s/%s, this host is %s: build it for %s too",
			r.asked, c.OS, c.Architecture, s.platform, s.platform)
	}
	return nil
}

// pin keeps Prune from the blobs and the tree of a pull; the returned function gives them free.
func (s *Store) pin(digest string, m *v1.Manifest) (unpin func()) {
	all := []string{digest, m.Config.Digest.String()}
	for _, l := range m.Layers {
		all = append(all, l.Digest.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range all {
		s.pins[d]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range all {
			if s.pins[d]--; s.pins[d] == 0 {
				delete(s.pins, d)
			}
		}
	}
}
