package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"gondola"
	"gondola/internal/image"
)

// dockerArchive is what `docker save` writes for images under their tags.
func dockerArchive(t *testing.T, images map[string]v1.Image) []byte {
	t.Helper()
	byRef := map[name.Reference]v1.Image{}
	for tag, img := range images {
		ref, err := name.NewTag(tag)
		if err != nil {
			t.Fatal(err)
		}
		byRef[ref] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiRefWrite(byRef, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layoutArchive is the tar of an OCI layout that holds an index of two platforms, this one's and another.
func layoutArchive(t *testing.T, mine v1.Image, annotations map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	platform := func(img v1.Image, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	multi := mutate.AppendManifests(empty.Index, platform(imageFor(t, "s390x", layer(t, reg("arch", "other"))), "s390x"), platform(mine, runtime.GOARCH))
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendIndex(multi, layout.WithAnnotations(annotations)); err != nil {
		t.Fatal(err)
	}
	var files []file
	err = filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files = append(files, reg("./"+strings.TrimPrefix(path, dir+"/"), string(b)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return layerTar(t, files...)
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestImport_TakesDockerArchivesAndOCILayouts(t *testing.T) {
	one, two := imageOf(t, layer(t, reg("f", "one"))), imageOf(t, layer(t, reg("f", "two")))
	docker := dockerArchive(t, map[string]v1.Image{"example.com/one:1": one, "two:2": two})
	single := dockerArchive(t, map[string]v1.Image{"example.com/one:1": one})
	oci := layoutArchive(t, one, map[string]string{"org.opencontainers.image.ref.name": "example.com/oci:1"})
	tagOnly := layoutArchive(t, one, map[string]string{"org.opencontainers.image.ref.name": "latest"})
	for _, row := range []struct {
		name      string
		archive   []byte
		reference string
		want      map[string]string // reference → content of f
	}{
		{"docker archive, all images", docker, "", map[string]string{"example.com/one:1": "one", "docker.io/library/two:2": "two"}},
		{"docker archive under another name", single, "other:3", map[string]string{"docker.io/library/other:3": "one"}},
		{"compressed", gzipped(t, single), "", map[string]string{"example.com/one:1": "one"}},
		{"OCI layout", oci, "", map[string]string{"example.com/oci:1": "one"}},
		{"OCI layout, compressed and named", gzipped(t, tagOnly), "named", map[string]string{"docker.io/library/named:latest": "one"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := open(t, image.Config{})
			infos, err := s.Import(t.Context(), bytes.NewReader(row.archive), row.reference)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range infos {
				got = append(got, i.Reference)
				if i.Digest == "" || i.SizeBytes != 3 {
					t.Errorf("info = %+v", i)
				}
			}
			if len(got) != len(row.want) {
				t.Errorf("imported %q, want %v", got, row.want)
			}
			for ref, f := range row.want {
				if !slices.Contains(got, ref) {
					t.Errorf("imported %q, want %s", got, ref)
					continue
				}
				if c := content(t, ensure(t, s, ref, image.Never), "f"); c != f {
					t.Errorf("%s holds %q, want %q", ref, c, f)
				}
			}
		})
	}
}

// TestImport_OfEntriesThatComeTwiceTheLastCounts: `tar --append` leaves the old one in the archive.
func TestImport_OfEntriesThatComeTwiceTheLastCounts(t *testing.T) {
	entries := untar(t, dockerArchive(t, map[string]v1.Image{"app:1": imageOf(t, layer(t, reg("f", "old")))}))
	for _, f := range untar(t, dockerArchive(t, map[string]v1.Image{"app:2": imageOf(t, layer(t, reg("f", "new")))})) {
		entries = append(entries, f, f)
	}
	s := open(t, image.Config{})
	infos, err := s.Import(t.Context(), bytes.NewReader(layerTar(t, entries...)), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 1 || infos[0].Reference != "docker.io/library/app:2" {
		t.Fatalf("imported %+v, want what the last manifest.json names", infos)
	}
	if got := content(t, ensure(t, s, "app:2", image.Never), "f"); got != "new" {
		t.Errorf("f = %q, want new", got)
	}
}

// untar lists the entries of an archive.
func untar(t *testing.T, archive []byte) (files []file) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file{*h, string(b)})
	}
}

func TestImport_RefusesWhatItCannotUse(t *testing.T) {
	one := imageOf(t, layer(t, reg("f", "one")))
	oci := layoutArchive(t, one, nil)
	damaged := bytes.Clone(oci)
	if i := bytes.Index(damaged, []byte(`"architecture":"`+runtime.GOARCH)); i > 0 {
		damaged[i+1] = 'X'
	} else {
		t.Fatal("no config in the archive")
	}
	for _, row := range []struct {
		name, reference string
		archive         io.Reader
		kind            error
		texts           []string
	}{
		{"no archive", "a", strings.NewReader("what is this"), gondola.ErrImage, []string{"docker save"}},
		{"cut off", "a", bytes.NewReader(oci[:len(oci)/2]), gondola.ErrImage, []string{"docker save"}},
		{"some other tar", "a", bytes.NewReader(layerTar(t, reg("readme", ""))), gondola.ErrImage, []string{"manifest.json"}},
		{"no name", "", bytes.NewReader(oci), gondola.ErrInvalid, []string{"reference"}},
		{"damaged blob", "a", bytes.NewReader(damaged), gondola.ErrImage, []string{"damaged"}},
		{"a built-in's name", "gondola.local/hello", bytes.NewReader(oci), gondola.ErrInvalid, []string{"gondola.local/hello"}},
		{"other platform", "", bytes.NewReader(dockerArchive(t, map[string]v1.Image{"x:1": imageFor(t, "s390x", layer(t, reg("a", "")))})), gondola.ErrImage, []string{"s390x"}},
		{"one name for two", "a", bytes.NewReader(dockerArchive(t, map[string]v1.Image{"x:1": one, "y:1": imageOf(t, layer(t, reg("g", "")))})), gondola.ErrInvalid, []string{"2 images"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, image.Config{Dir: dir})
			_, err := s.Import(t.Context(), row.archive, row.reference)
			wantError(t, err, row.kind, row.texts...)
			if left, _ := os.ReadDir(dir + "/tmp"); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
			if list, _ := s.List(t.Context()); len(list) != 0 {
				t.Errorf("List = %v", list)
			}
		})
	}
}

func TestAddHello_IsDeterministicAndNeedsNoNetwork(t *testing.T) {
	program := []byte("#!/bin/sh\necho hello\n")
	var digests []string
	for _, packed := range [][]byte{program, gzipped(t, program)} {
		s := open(t, image.Config{})
		for range 2 {
			if err := s.AddHello(t.Context(), packed); err != nil {
				t.Fatal(err)
			}
		}
		img := ensure(t, s, "gondola.local/hello", image.Always)
		digests = append(digests, img.Digest)
		if img.Entrypoint[0] != "/hello" || content(t, img, "hello") != string(program) {
			t.Errorf("image = %+v", img)
		}
		if fi, err := os.Stat(img.Tree + "/tmp"); err != nil || fi.Mode()&os.ModeSticky == 0 || fi.Mode().Perm() != 0o777 {
			t.Errorf("/tmp: %v, %v", fi, err)
		}
		if to, err := os.Readlink(img.Tree + "/bin/sh"); err != nil || to != "../hello" {
			t.Errorf("/bin/sh leads to %q, %v", to, err)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("digests differ: %q", digests)
	}
	if err := open(t, image.Config{}).AddHello(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "make") {
		t.Errorf("without a program: %v", err)
	}
}

func TestEnsure_TheDemoImageComesBackWhenItWasDeleted(t *testing.T) {
	dir := t.TempDir()
	s := open(t, image.Config{Dir: dir})
	if err := s.AddHello(t.Context(), []byte("#!/bin/true\n")); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"trees", "blobs/sha256"} {
		entries, err := os.ReadDir(filepath.Join(dir, gone))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, gone, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	img, err := s.Ensure(t.Context(), image.HelloReference, image.IfNotPresent, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(img.Tree, "hello")); err != nil {
		t.Error(err)
	}
}
