// Command registry serves a container registry with images of Debian's nginx, wrk, redis and PostgreSQL, made from the packages on this machine, and of
// test/lister, for the flows.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:5000", "address to serve on")
	lister := flag.String("lister", "", "program of the image test/lister")
	flag.Parse()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- http.Serve(l, registry.New(registry.Logger(log.New(io.Discard, "", 0)))) }()
	for repository, p := range images(*lister) {
		if err := push(l.Addr().String()+"/"+repository+":12", p); err != nil {
			log.Fatalf("%s: %v", repository, err)
		}
	}
	fmt.Println("ready")
	log.Fatal(<-done)
}

// program is what goes into an image: files and folders of this machine with the libraries they need, empty folders, and how it runs.
type program struct {
	paths, dirs, cmd, env []string
	user                  string // root if empty
}

func push(reference string, p program) error {
	img, err := p.image()
	if err != nil {
		return err
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	return remote.Write(ref, img)
}

func (p program) image() (v1.Image, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	seen := map[string]bool{}
	for _, d := range p.dirs {
		if err := t.WriteHeader(&tar.Header{Name: strings.TrimPrefix(d, "/") + "/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
			return nil, err
		}
	}
	for _, path := range append(p.paths, "/etc/passwd", "/etc/group") {
		libs, err := libraries(path)
		if err != nil {
			return nil, err
		}
		for _, f := range append(libs, path) {
			if err := add(t, f, seen); err != nil {
				return nil, err
			}
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	f = f.DeepCopy()
	f.OS, f.Architecture = "linux", "amd64"
	f.Config.Cmd, f.Config.User, f.Config.Env = p.cmd, p.user, p.env
	if p.env == nil {
		f.Config.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	}
	return mutate.ConfigFile(img, f)
}

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

// add writes a file, or a folder with all that is in it; links are followed, so that the image needs nothing else.
func add(t *tar.Writer, root string, seen map[string]bool) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || seen[path] {
			return err
		}
		seen[path] = true
		fi, err := os.Stat(path)
		if err != nil {
			return nil // a link to nowhere
		}
		h, err := tar.FileInfoHeader(fi, "")
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(path, "/")
		if fi.IsDir() {
			h.Name += "/"
			return t.WriteHeader(h)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h.Size = int64(len(b))
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err = t.Write(b)
		return err
	})
}
