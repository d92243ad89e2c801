// Package image makes container images of what lies on this machine: programs of Debian packages with the libraries they load, and files that are
// made up. The registries of the tests serve them.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Layer is what one layer of an image holds. Its methods add to it; the first error stays and comes from Done. What is added twice counts once,
// the first time. Make it with NewLayer.
type Layer struct {
	b    bytes.Buffer
	tar  *tar.Writer
	seen map[string]bool
	err  error
	done v1.Layer // nil until Done
}

func NewLayer() *Layer {
	l := &Layer{seen: map[string]bool{}}
	l.tar = tar.NewWriter(&l.b)
	return l
}

// Dirs adds empty folders that everybody may write to.
func (l *Layer) Dirs(paths ...string) *Layer {
	for _, p := range paths {
		l.write(&tar.Header{Name: inside(p) + "/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	}
	return l
}

// File adds a file with these contents.
func (l *Layer) File(path string, mode int64, contents []byte) *Layer {
	l.write(&tar.Header{Name: inside(path), Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(contents))}, contents)
	return l
}

// Text adds a text file that everybody may read.
func (l *Layer) Text(path, contents string) *Layer { return l.File(path, 0o644, []byte(contents)) }

// Link adds a symbolic link.
func (l *Layer) Link(path, target string) *Layer {
	l.write(&tar.Header{Name: inside(path), Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, nil)
	return l
}

// Copy adds a file of this machine at another path.
func (l *Layer) Copy(path string, mode int64, from string) *Layer {
	b, err := os.ReadFile(from)
	if err != nil {
		l.fail(err)
		return l
	}
	return l.File(path, mode, b)
}

// Paths adds files and whole folders of this machine where they lie there, and the libraries that programs among them load. Links are followed,
// so that the image needs nothing else.
func (l *Layer) Paths(paths ...string) *Layer {
	for _, p := range paths {
		libs, err := libraries(p)
		l.fail(err)
		for _, f := range append(libs, p) {
			l.fail(l.walk(f))
		}
	}
	return l
}

// Done is the finished layer, the same one each time; nothing can be added any more.
func (l *Layer) Done() (v1.Layer, error) {
	if l.done != nil || l.err != nil {
		return l.done, l.err
	}
	if l.err = l.tar.Close(); l.err == nil {
		l.done, l.err = tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l.b.Bytes())), nil })
	}
	return l.done, l.err
}

func (l *Layer) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

func (l *Layer) write(h *tar.Header, contents []byte) {
	if l.err != nil || l.seen[h.Name] {
		return
	}
	l.seen[h.Name] = true
	if l.fail(l.tar.WriteHeader(h)); l.err == nil && len(contents) > 0 {
		_, err := l.tar.Write(contents)
		l.fail(err)
	}
}

func (l *Layer) walk(root string) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Stat(path)
		if err != nil {
			return nil // a link to nowhere
		}
		h, err := tar.FileInfoHeader(fi, "")
		if err != nil {
			return err
		}
		h.Name = inside(path)
		if fi.IsDir() {
			h.Name += "/"
			l.write(h, nil)
			return l.err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h.Size = int64(len(b))
		l.write(h, b)
		return l.err
	})
}

func inside(path string) string { return strings.Trim(path, "/") }

var libraryRE = regexp.MustCompile(`(/\S+)`)

// libraries are the shared objects that a program loads, by ldd; none for other files.
func libraries(path string) ([]string, error) {
	fi, err := os.Stat(path)
	if err != nil || fi.IsDir() || fi.Mode()&0o111 == 0 {
		return nil, err
	}
	out, err := exec.Command("ldd", path).CombinedOutput()
	if strings.Contains(string(out), "not a dynamic executable") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", path, err, out)
	}
	var libs []string
	for _, m := range libraryRE.FindAllString(string(out), -1) {
		libs = append(libs, strings.Trim(m, "()"))
	}
	return libs, nil
}

// Of makes an image for linux/amd64 out of layers, the lowest first.
func Of(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", "amd64", config
	return mutate.ConfigFile(img, f)
}
