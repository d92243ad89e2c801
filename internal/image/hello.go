package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"gondola"
)

// HelloReference is the demo image, a small web server with a shell and the tools that `kubectl exec` and `kubectl cp` need.
const HelloReference = BuiltinRegistry + "/hello"

// HelloTools are the names under which the program of the demo image is found in its /bin.
func HelloTools() []string {
	return []string{"[", "basename", "cat", "chmod", "chown", "clear", "cp", "curl", "cut", "date", "df", "dirname", "du", "echo", "env",
		"false", "find", "grep", "head", "host", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mv", "nc", "nslookup", "pods", "printenv",
		"printf", "ps", "pwd", "readlink", "rm", "rmdir", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "stty", "sync", "tail", "tar",
		"tee", "test", "touch", "tr", "true", "tty", "uname", "uniq", "wc", "wget", "which", "whoami", "xargs"}
}

// AddHello puts the demo image into the store under HelloReference, made from its program: the bytes of cmd/gondola-hello, gzip'ed or
// plain. The digest depends on them alone. Done again with the same bytes it costs a few file reads.
func (s *Store) AddHello(ctx context.Context, program []byte) error {
	if len(program) == 0 {
		return errors.New("the program of the demo image is empty: build with `make`")
	}
	s.mu.Lock()
	s.hello = program
	s.mu.Unlock()
	source := digestOf(program)
	r, err := parseReference(HelloReference)
	if err != nil {
		return err
	}
	if rec, err := s.lookup(r.canonical()); err == nil && rec.Source == source {
		if _, err := s.cached(ctx, r); err == nil {
			return nil
		}
	}
	plain, closeReader, err := decompress(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("read the program of the demo image: %w", err)
	}
	defer closeReader()
	binary, err := io.ReadAll(plain)
	if err != nil {
		return fmt.Errorf("read the program of the demo image: %w", err)
	}
	archive, err := HelloArchive(binary)
	if err != nil {
		return fmt.Errorf("make the demo image: %w", err)
	}
	if _, err := s.importImages(ctx, bytes.NewReader(archive), HelloReference, source); err != nil {
		return fmt.Errorf("add the demo image: %w", err)
	}
	return nil
}

// helloAgain adds the demo image once more, somebody having deleted it.
func (s *Store) helloAgain(ctx context.Context, r reference) (record, error) {
	s.mu.Lock()
	program := s.hello
	s.mu.Unlock()
	if hello, err := parseReference(HelloReference); err != nil || program == nil || hello.canonical() != r.canonical() {
		return record{}, gondola.Errorf(gondola.ErrImage, "image %s is not built into this program; the one that is: %s", r.asked, HelloReference)
	}
	if err := s.AddHello(ctx, program); err != nil {
		return record{}, err
	}
	return s.cached(ctx, r)
}

// HelloArchive makes the demo image from its program, as the tar of an OCI layout. Equal programs give equal bytes.
func HelloArchive(binary []byte) ([]byte, error) {
	layer, err := helloLayer(binary)
	if err != nil {
		return nil, err
	}
	diffID, err := v1.NewHash(digestOf(layer))
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		Config: v1.Config{
			Entrypoint:   []string{"/hello"},
			Env:          []string{"PATH=/bin"},
			WorkingDir:   "/",
			ExposedPorts: map[string]struct{}{"8080/tcp": {}},
			StopSignal:   "SIGTERM",
		},
	})
	if err != nil {
		return nil, err
	}
	b := layoutBuilder{}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: b.blob(config, types.OCIConfigJSON),
		Layers: []v1.Descriptor{b.blob(layer, types.OCIUncompressedLayer)},
	})
	if err != nil {
		return nil, err
	}
	top := b.blob(manifest, types.OCIManifestSchema1)
	top.Annotations = map[string]string{"io.containerd.image.name": HelloReference + ":latest"}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{top}})
	if err != nil {
		return nil, err
	}
	b.file("index.json", index)
	b.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return b.archive()
}

// layoutBuilder writes an OCI layout.
type layoutBuilder struct {
	names []string
	data  [][]byte
}

func (b *layoutBuilder) file(name string, data []byte) {
	b.names, b.data = append(b.names, name), append(b.data, data)
}

func (b *layoutBuilder) blob(data []byte, media types.MediaType) v1.Descriptor {
	digest := digestOf(data)
	b.file("blobs/sha256/"+hexOf(digest), data)
	return v1.Descriptor{MediaType: media, Size: int64(len(data)), Digest: v1.Hash{Algorithm: "sha256", Hex: hexOf(digest)}}
}

func (b *layoutBuilder) archive() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, name := range b.names {
		if err := writeEntry(w, tar.Header{Name: name, Mode: 0o644}, b.data[i]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// helloLayer is the file system of the demo image.
func helloLayer(binary []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	type entry struct {
		tar.Header
		data string
	}
	dir := func(name string, mode int64) entry {
		return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}, ""}
	}
	file := func(name string, mode int64, data string) entry {
		return entry{tar.Header{Name: name, Mode: mode}, data}
	}
	entries := []entry{
		dir("bin/", 0o755), dir("dev/", 0o755), dir("etc/", 0o755), dir("proc/", 0o755), dir("root/", 0o700), dir("run/", 0o755),
		dir("sys/", 0o755), dir("tmp/", 0o1777), dir("usr/", 0o755), dir("var/", 0o755), dir("var/tmp/", 0o1777), dir("home/", 0o755),
		{tar.Header{Name: "home/user/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1000, Gid: 1000}, ""},
		{tar.Header{Name: "usr/bin", Typeflag: tar.TypeSymlink, Linkname: "../bin", Mode: 0o777}, ""},
		file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
		file("etc/group", 0o644, "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"),
		file("etc/nsswitch.conf", 0o644, "hosts: files dns\n"),
		file("etc/os-release", 0o644, "ID=gondola-hello\nNAME=\"Gondola demo image\"\nPRETTY_NAME=\"Gondola demo image\"\n"),
	}
	for _, t := range HelloTools() {
		entries = append(entries, entry{tar.Header{Name: "bin/" + t, Typeflag: tar.TypeSymlink, Linkname: "../hello", Mode: 0o777}, ""})
	}
	for _, e := range entries {
		if err := writeEntry(w, e.Header, []byte(e.data)); err != nil {
			return nil, err
		}
	}
	if err := writeEntry(w, tar.Header{Name: "hello", Mode: 0o755}, binary); err != nil {
		return nil, err
	}
	err := w.Close()
	return buf.Bytes(), err
}

func writeEntry(w *tar.Writer, h tar.Header, data []byte) error {
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	h.Size, h.ModTime = int64(len(data)), time.Unix(0, 0).UTC()
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
