package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"gondola"
	"gondola/internal/failpoint"
)

// archived is an image archive, spread out in a directory.
type archived struct {
	dir   string
	files map[string]archivedFile // name in the archive → where it is
	links map[string]string       // symbolic links: `docker save` wrote a layer that two images share only once
}

type archivedFile struct {
	path   string
	digest string // "sha256:…"
	size   int64
}

// found is an image in an archive: its manifest, and the blobs that it needs by digest.
type found struct {
	names    []string // references, as the archive gives them
	resolved string   // digest of the index or manifest that the names stand for
	raw      []byte   // manifest
	blobs    map[string]archivedFile
}

// Import adds the images of an archive: what `docker save` writes, or a tar of an OCI layout, compressed or not. With an empty reference
// every image comes in under the names in the archive; otherwise its only image does under this one. Content that does not match its
// digest, another platform or an archive without images is gondola.ErrImage.
func (s *Store) Import(ctx context.Context, archive io.Reader, reference string) ([]gondola.ImageInfo, error) {
	return s.importImages(ctx, archive, reference, "")
}

func (s *Store) importImages(ctx context.Context, archive io.Reader, reference, source string) ([]gondola.ImageInfo, error) {
	if reference != "" {
		if _, err := parseReference(reference); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(s.path("tmp"), "import-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	a, err := spread(ctx, archive, dir)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, gondola.Errorf(gondola.ErrImage, "the archive cannot be read as an image: %w; make it with `docker save` or as an OCI layout", err)
	}
	images, err := s.images(a)
	if err != nil {
		return nil, err
	}
	if reference != "" {
		if len(images) != 1 {
			return nil, gondola.Errorf(gondola.ErrInvalid, "the archive holds %d images, so one reference cannot name them: import it without a reference", len(images))
		}
		images[0].names = []string{reference}
	}
	var infos []gondola.ImageInfo
	for _, img := range images {
		if len(img.names) == 0 {
			return nil, gondola.Errorf(gondola.ErrInvalid, "an image in the archive has no name: give the reference to import it under")
		}
		for _, n := range img.names {
			info, err := s.add(ctx, img, n, source)
			if err != nil {
				return nil, err
			}
			infos = append(infos, info)
		}
	}
	return infos, nil
}

// add puts an image into the store under a name.
func (s *Store) add(ctx context.Context, img found, asked, source string) (gondola.ImageInfo, error) {
	r, err := parseReference(asked)
	if err != nil {
		return gondola.ImageInfo{}, err
	}
	if r.builtin() && source == "" {
		return gondola.ImageInfo{}, gondola.Errorf(gondola.ErrInvalid, "%s is a name of a built-in image: import it under another reference", asked)
	}
	m, err := imageManifest(r, types.OCIManifestSchema1, img.raw)
	if err != nil {
		return gondola.ImageInfo{}, err
	}
	digest := digestOf(img.raw)
	rec := record{Reference: r.canonical(), Name: r.name(), Resolved: img.resolved, Manifest: digest, Source: source}
	unpin := s.pin(digest, m)
	defer unpin()
	if _, err := s.fills.do(ctx, digest, func(ctx context.Context) (record, error) { return rec, s.fillFrom(ctx, r, img, digest, m) }); err != nil {
		return gondola.ImageInfo{}, fmt.Errorf("import %s: %w", asked, err)
	}
	failpoint.Hit("image.import.filled")
	if err := s.save(rec); err != nil {
		return gondola.ImageInfo{}, err
	}
	failpoint.Hit("image.import.saved")
	s.touch(rec)
	size, err := s.treeSize(digest)
	if err != nil {
		return gondola.ImageInfo{}, err
	}
	return gondola.ImageInfo{Reference: rec.Reference, Digest: digest, SizeBytes: size}, nil
}

// fillFrom makes blobs and tree of one manifest complete, from an archive.
func (s *Store) fillFrom(ctx context.Context, r reference, img found, digest string, m *v1.Manifest) error {
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if s.hasBlob(d) && (d.Digest != m.Config.Digest || s.wholeBlob(d)) {
			continue
		}
		file, ok := img.blobs[d.Digest.String()]
		if !ok {
			return gondola.Errorf(gondola.ErrImage, "the archive lacks %s of image %s, or has it damaged: save it again, with its layers", d.Digest, r.asked)
		}
		f, err := os.Open(file.path)
		if err != nil {
			return err
		}
		err = s.putBlob(ctx, d.Digest.String(), f)
		f.Close()
		if err != nil {
			return err
		}
	}
	if err := s.putBlob(ctx, digest, bytes.NewReader(img.raw)); err != nil {
		return err
	}
	if err := s.checkPlatform(r, digest); err != nil {
		return err
	}
	return unpackError(r, s.unpackImage(ctx, digest))
}

// spread writes the files of an archive into dir under made-up names. Of entries with the same name the last counts, as for tar.
func spread(ctx context.Context, archive io.Reader, dir string) (archived, error) {
	a := archived{dir: dir, files: map[string]archivedFile{}, links: map[string]string{}}
	r, closeReader, err := decompress(contextReader{ctx, archive})
	if err != nil {
		return a, err
	}
	defer closeReader()
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return a, err
		}
		name := clean(h.Name)
		if old, ok := a.files[name]; ok {
			if err := os.Remove(old.path); err != nil {
				return a, err
			}
		}
		delete(a.files, name)
		delete(a.links, name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			a.links[name] = clean(path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			a.links[name] = clean(h.Linkname)
		case tar.TypeReg:
			f, err := spreadFile(tr, filepath.Join(dir, strconv.Itoa(n)))
			if err != nil {
				return a, err
			}
			a.files[name] = f
		}
	}
}

func spreadFile(r io.Reader, path string) (archivedFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return archivedFile{}, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return archivedFile{path: path, digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), size: n}, err
}

// file finds a file of the archive, through links.
func (a archived) file(name string) (archivedFile, bool) {
	name = clean(name)
	for range 8 {
		if f, ok := a.files[name]; ok {
			return f, true
		}
		next, ok := a.links[name]
		if !ok {
			break
		}
		name = next
	}
	return archivedFile{}, false
}

// read returns a small file of the archive.
func (a archived) read(name string) ([]byte, bool, error) {
	f, ok := a.file(name)
	if !ok {
		return nil, false, nil
	}
	if f.size > 16<<20 {
		return nil, true, fmt.Errorf("%s is too large", name)
	}
	b, err := os.ReadFile(f.path)
	return b, true, err
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// images lists the images of an archive for this platform. Newer `docker save` writes both forms into one archive; the OCI layout keeps
// the digests that the image has in registries.
func (s *Store) images(a archived) ([]found, error) {
	index, isLayout, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	docker, isDocker, err := a.read("manifest.json")
	if err != nil {
		return nil, err
	}
	var images []found
	switch {
	case isLayout:
		images, err = s.layoutImages(a, index, docker)
	case isDocker:
		images, err = dockerImages(a, docker)
	default:
		return nil, gondola.Errorf(gondola.ErrImage, "the archive is neither from `docker save` nor an OCI layout: it has no manifest.json and no index.json")
	}
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, gondola.Errorf(gondola.ErrImage, "the archive holds no image")
	}
	return images, nil
}

// layoutImages reads an OCI layout.
func (s *Store) layoutImages(a archived, index, docker []byte) ([]found, error) {
	idx, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return nil, gondola.Errorf(gondola.ErrImage, "index.json of the archive cannot be read: %w", err)
	}
	blobs := map[string]archivedFile{}
	for name, f := range a.files {
		if dir, base := path.Split(name); dir == "blobs/sha256/" && "sha256:"+base == f.digest {
			blobs[f.digest] = f
		}
	}
	dockerNames := namesByConfig(a, docker)
	var images []found
	for _, top := range idx.Manifests {
		img, config, err := s.layoutImage(blobs, top)
		if err != nil {
			return nil, err
		}
		img.names = append(layoutNames(top.Annotations), img.names...)
		if len(img.names) == 0 {
			img.names = dockerNames[config]
		}
		images = append(images, img)
	}
	return images, nil
}

// layoutImage follows a descriptor to the manifest for this platform.
func (s *Store) layoutImage(blobs map[string]archivedFile, top v1.Descriptor) (img found, config string, err error) {
	r := reference{asked: top.Digest.String()}
	if n := layoutNames(top.Annotations); len(n) > 0 {
		r.asked = n[0]
	}
	img = found{resolved: top.Digest.String(), blobs: blobs}
	d := top
	for range 4 {
		f, ok := blobs[d.Digest.String()]
		if !ok {
			return img, "", gondola.Errorf(gondola.ErrImage, "the archive lacks %s of image %s, or has it damaged: save it again", d.Digest, r.asked)
		}
		raw, err := os.ReadFile(f.path)
		if err != nil {
			return img, "", err
		}
		if !d.MediaType.IsIndex() {
			m, err := imageManifest(r, d.MediaType, raw)
			if err != nil {
				return img, "", err
			}
			img.raw = raw
			return img, m.Config.Digest.String(), nil
		}
		if d, err = s.choose(r, raw); err != nil {
			return img, "", err
		}
	}
	return img, "", gondola.Errorf(gondola.ErrImage, "image %s is an index of indexes: save one image of it", r.asked)
}

// layoutNames are the full references among a descriptor's annotations. "org.opencontainers.image.ref.name" may be a mere tag, which names
// nothing on its own.
func layoutNames(annotations map[string]string) []string {
	if n := annotations["io.containerd.image.name"]; n != "" {
		return []string{n}
	}
	if n := annotations["org.opencontainers.image.ref.name"]; strings.ContainsAny(n, "/:") {
		return []string{n}
	}
	return nil
}

// dockerEntry is one image in manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func namesByConfig(a archived, docker []byte) map[string][]string {
	var entries []dockerEntry
	if json.Unmarshal(docker, &entries) != nil {
		return nil
	}
	names := map[string][]string{}
	for _, e := range entries {
		if f, ok := a.file(e.Config); ok {
			names[f.digest] = e.RepoTags
		}
	}
	return names
}

// dockerImages reads manifest.json and makes an OCI manifest for each image, with its layers as they are.
func dockerImages(a archived, docker []byte) ([]found, error) {
	var entries []dockerEntry
	if err := json.Unmarshal(docker, &entries); err != nil {
		return nil, gondola.Errorf(gondola.ErrImage, "manifest.json of the archive cannot be read: %w", err)
	}
	var images []found
	for _, e := range entries {
		img := found{names: e.RepoTags, blobs: map[string]archivedFile{}}
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
		describe := func(name string, media types.MediaType) (v1.Descriptor, error) {
			f, ok := a.file(name)
			if !ok {
				return v1.Descriptor{}, gondola.Errorf(gondola.ErrImage, "the archive lacks %s: save the image again", name)
			}
			img.blobs[f.digest] = f
			h, err := v1.NewHash(f.digest)
			return v1.Descriptor{MediaType: media, Size: f.size, Digest: h}, err
		}
		var err error
		if m.Config, err = describe(e.Config, types.OCIConfigJSON); err != nil {
			return nil, err
		}
		for _, l := range e.Layers {
			d, err := describe(l, types.OCIUncompressedLayer)
			if err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, d)
		}
		if img.raw, err = json.Marshal(m); err != nil {
			return nil, err
		}
		img.resolved = digestOf(img.raw)
		images = append(images, img)
	}
	return images, nil
}
