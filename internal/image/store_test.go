package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"gondola"
	"gondola/internal/image"
)

// hub is a registry on loopback that counts requests and lets a test stand in their way.
type hub struct {
	host      string
	blobs     atomic.Int64 // GETs of blobs
	manifests atomic.Int64

	mu        sync.Mutex
	intercept func(w http.ResponseWriter, r *http.Request) (done bool)
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{}
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			h.blobs.Add(1)
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			h.manifests.Add(1)
		}
		h.mu.Lock()
		f := h.intercept
		h.mu.Unlock()
		if f != nil && f(w, r) {
			return
		}
		reg.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	h.host = strings.TrimPrefix(srv.URL, "http://")
	return h
}

func (h *hub) interceptWith(f func(http.ResponseWriter, *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.intercept = f
}

func (h *hub) push(t *testing.T, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(h.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

// file is one entry of a layer.
type file struct {
	tar.Header
	data string
}

func reg(name, data string) file {
	return file{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, data}
}
func dir(name string) file {
	return file{tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir}, ""}
}
func sym(name, to string) file {
	return file{tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}, ""}
}
func hard(name, to string) file {
	return file{tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}, ""}
}

func layerTar(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Size = int64(len(f.data))
		if f.ModTime.IsZero() {
			f.ModTime = time.Unix(1_700_000_000, 0)
		}
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layer(t *testing.T, files ...file) v1.Layer {
	t.Helper()
	data := layerTar(t, files...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	return imageFor(t, runtime.GOARCH, layers...)
}

func imageFor(t *testing.T, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", arch
	c.Config = v1.Config{Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, Env: []string{"A=1"}, WorkingDir: "/w", User: "7:8", StopSignal: "SIGINT"}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func open(t *testing.T, cfg image.Config) *image.Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	t.Setenv("HOME", t.TempDir()) // no docker configuration of whoever runs the tests
	s, err := image.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ensure(t *testing.T, s *image.Store, ref string, p image.Policy) image.Image {
	t.Helper()
	img, err := s.Ensure(t.Context(), ref, p, nil)
	if err != nil {
		t.Fatalf("Ensure(%q, %s) = %v", ref, p, err)
	}
	return img
}

func content(t *testing.T, img image.Image, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(img.Tree, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEnsure_PullsOnceAndDescribesTheImage(t *testing.T) {
	h := newHub(t)
	src := imageOf(t, layer(t, reg("hello.txt", "hi")))
	ref := h.push(t, "lib/app:1", src)
	var last atomic.Pointer[image.Progress]
	s := open(t, image.Config{Progress: func(p image.Progress) { last.Store(&p) }})
	if s.Cached(ref) {
		t.Errorf("Cached(%q) before a pull", ref)
	}
	img := ensure(t, s, ref, image.IfNotPresent)
	digest, _ := src.Digest()
	if img.Digest != digest.String() || img.ID != h.host+"/lib/app@"+digest.String() || img.Reference != ref {
		t.Errorf("image is %+v, want digest %s", img, digest)
	}
	if got := fmt.Sprint(img.Entrypoint, img.Cmd, img.Env, []string{img.WorkingDir, img.User, img.StopSignal}); got != "[/entry] [arg] [A=1] [/w 7:8 SIGINT]" {
		t.Errorf("config = %s", got)
	}
	if want, err := src.RawConfigFile(); err != nil || !bytes.Equal(img.Config, want) {
		t.Errorf("config = %s, %v, want %s", img.Config, err, want)
	}
	if got := content(t, img, "hello.txt"); got != "hi" || img.SizeBytes != 2 {
		t.Errorf("hello.txt = %q, size %d", got, img.SizeBytes)
	}
	if p := last.Load(); p == nil || p.Done != p.Total || p.Total == 0 || p.Reference != ref {
		t.Errorf("last progress = %+v, want all of it", p)
	}
	if !s.Cached(ref) {
		t.Errorf("not Cached(%q) after a pull", ref)
	}
	before := h.manifests.Load()
	ensure(t, s, ref, image.IfNotPresent)
	ensure(t, s, ref, image.Never)
	if n := h.manifests.Load() - before; n != 0 {
		t.Errorf("%d requests for an image that is here", n)
	}
	// By digest, which every policy may take from the store once its name is known there.
	if got := ensure(t, s, img.ID, image.IfNotPresent); got.Digest != img.Digest {
		t.Errorf("by digest: %+v", got)
	}
}

func TestEnsure_AlwaysFollowsAMovedTag(t *testing.T) {
	h := newHub(t)
	s := open(t, image.Config{})
	ref := h.push(t, "app:1", imageOf(t, layer(t, reg("v", "1"))))
	ensure(t, s, ref, image.Always)
	h.push(t, "app:1", imageOf(t, layer(t, reg("v", "2"))))
	if got := content(t, ensure(t, s, ref, image.IfNotPresent), "v"); got != "1" {
		t.Errorf("if_not_present gave version %s", got)
	}
	if got := content(t, ensure(t, s, ref, image.Always), "v"); got != "2" {
		t.Errorf("always gave version %s", got)
	}
	blobs := h.blobs.Load()
	ensure(t, s, ref, image.Always)
	if n := h.blobs.Load() - blobs; n != 0 {
		t.Errorf("%d blobs fetched again", n)
	}
}

func TestEnsure_ConcurrentCallersShareOnePull(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", imageOf(t, layer(t, reg("a", "1")), layer(t, reg("b", "2"))))
	s := open(t, image.Config{})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			var creds []gondola.RegistryCredential
			if i%2 == 1 { // other credentials: a resolution of their own, but the same blobs
				creds = []gondola.RegistryCredential{{Registry: h.host, Username: "u", Password: "p"}}
			}
			if _, err := s.Ensure(t.Context(), ref, image.Always, creds); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.blobs.Load(); n != 3 {
		t.Errorf("%d blobs fetched, want config and two layers once", n)
	}
}

func TestEnsure_OneCallerLeavingDoesNotEndThePullOfTheOthers(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", imageOf(t, layer(t, reg("a", "1"))))
	asked, goOn := make(chan struct{}, 10), make(chan struct{})
	h.interceptWith(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			asked <- struct{}{}
			select {
			case <-goOn:
			case <-r.Context().Done():
			}
		}
		return false
	})
	s := open(t, image.Config{})
	ctx, leave := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.Ensure(ctx, ref, image.IfNotPresent, nil); first <- err }()
	<-asked
	go func() { _, err := s.Ensure(t.Context(), ref, image.IfNotPresent, nil); second <- err }()
	// Whether the second has joined or comes later, it must get the image.
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left got %v", err)
	}
	close(goOn)
	if err := <-second; err != nil {
		t.Errorf("the one who stayed got %v", err)
	}
}

func TestEnsure_MultiArchIndexGivesThisPlatform(t *testing.T) {
	h := newHub(t)
	mine, other := imageOf(t, layer(t, reg("arch", "mine"))), imageFor(t, "s390x", layer(t, reg("arch", "other")))
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	ref, _ := name.ParseReference(h.host + "/multi:1")
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}
	s := open(t, image.Config{})
	img := ensure(t, s, ref.Name(), image.IfNotPresent)
	top, _ := idx.Digest()
	manifest, _ := mine.Digest()
	if content(t, img, "arch") != "mine" || !strings.HasSuffix(img.ID, "@"+top.String()) || img.Digest != manifest.String() {
		t.Errorf("got %+v, want ID by index %s and digest %s", img, top, manifest)
	}

	only := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}})
	ref2, _ := name.ParseReference(h.host + "/foreign:1")
	if err := remote.WriteIndex(ref2, only); err != nil {
		t.Fatal(err)
	}
	_, err := s.Ensure(t.Context(), ref2.Name(), image.IfNotPresent, nil)
	wantError(t, err, gondola.ErrImage, "linux/s390x", "linux/"+runtime.GOARCH, ref2.Name())
	_, err = s.Ensure(t.Context(), h.push(t, "foreign:2", other), image.IfNotPresent, nil)
	wantError(t, err, gondola.ErrImage, "linux/s390x", "linux/"+runtime.GOARCH)
}

func wantError(t *testing.T, err error, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error is %v, want kind %q", err, kind)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not name %q", err, text)
		}
	}
}

func TestEnsure_ErrorsNameReferenceAndWayOut(t *testing.T) {
	h := newHub(t)
	s := open(t, image.Config{})
	img := imageOf(t, layer(t, reg("a", "1")))
	chart := mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), "application/vnd.cncf.helm.config.v1+json")
	h.push(t, "chart:1", chart)
	for _, row := range []struct {
		name, ref string
		policy    image.Policy
		kind      error
		texts     []string
	}{
		{"missing", h.host + "/none:1", image.IfNotPresent, gondola.ErrImage, []string{"/none:1", "does not exist"}},
		{"bad name", "Bad Name", image.IfNotPresent, gondola.ErrImage, []string{"Bad Name", "[registry/]name"}},
		{"never", "nginx", image.Never, gondola.ErrImage, []string{"nginx", "gondola image import"}},
		{"builtin", "gondola.local/other", image.Always, gondola.ErrImage, []string{"gondola.local/hello"}},
		{"helm chart", h.host + "/chart:1", image.IfNotPresent, gondola.ErrImage, []string{"not a container image", "helm"}},
		{"nobody listens", "127.0.0.1:1/a:1", image.IfNotPresent, gondola.ErrUnavailable, []string{"127.0.0.1:1", "gondola image import"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := s.Ensure(t.Context(), row.ref, row.policy, nil)
			wantError(t, err, row.kind, row.texts...)
		})
	}
}

func TestEnsure_Credentials(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "team/private:1", imageOf(t, layer(t, reg("a", "1"))))
	h.interceptWith(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "me" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	s := open(t, image.Config{})
	_, err := s.Ensure(t.Context(), ref, image.Always, nil)
	wantError(t, err, gondola.ErrImage, ref, "imagePullSecrets", "docker login")
	_, err = s.Ensure(t.Context(), ref, image.Always, []gondola.RegistryCredential{{Registry: "example.com", Username: "me", Password: "secret"}})
	wantError(t, err, gondola.ErrImage, "denies access")
	good := gondola.RegistryCredential{Registry: "https://" + h.host + "/team", Username: "me", Password: "secret"}
	wrong := gondola.RegistryCredential{Registry: h.host + "/team/private", Username: "me", Password: "old"}
	if _, err = s.Ensure(t.Context(), ref, image.Always, []gondola.RegistryCredential{good, wrong}); err != nil {
		t.Errorf("with a wrong and a right credential: %v", err)
	}

	s = open(t, image.Config{})
	conf := filepath.Join(os.Getenv("HOME"), ".docker")
	if err := os.MkdirAll(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	auth := `{"auths":{"` + h.host + `":{"username":"me","password":"secret"}}}`
	if err := os.WriteFile(filepath.Join(conf, "config.json"), []byte(auth), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = s.Ensure(t.Context(), ref, image.Always, nil); err != nil {
		t.Errorf("with ~/.docker/config.json: %v", err)
	}
}

func TestEnsure_MirrorFirstThenTheRegistry(t *testing.T) {
	mirror, origin := newHub(t), newHub(t)
	mirror.push(t, "cache/library/app:1", imageOf(t, layer(t, reg("from", "mirror"))))
	origin.push(t, "library/app:1", imageOf(t, layer(t, reg("from", "origin"))))
	origin.push(t, "library/rare:1", imageOf(t, layer(t, reg("from", "origin"))))
	s := open(t, image.Config{Registries: map[string]image.Registry{
		origin.host: {Mirror: "http://" + mirror.host + "/cache"},
		"docker.io": {Mirror: mirror.host + "/cache"},
	}})
	for ref, want := range map[string]string{
		origin.host + "/library/app:1":  "mirror",
		origin.host + "/library/rare:1": "origin",
		"app:1":                         "mirror", // Docker Hub's rules of names
	} {
		img := ensure(t, s, ref, image.IfNotPresent)
		if got := content(t, img, "from"); got != want {
			t.Errorf("%s came from %s, want %s", ref, got, want)
		}
	}
	if img := ensure(t, s, "docker.io/library/app:1", image.Never); !strings.HasPrefix(img.ID, "docker.io/library/app@sha256:") {
		t.Errorf("ID = %s, want Docker Hub's name and not the mirror's", img.ID)
	}
}

// TestEnsure_AMirrorIsNeverAUserOfDockerHub: whoever has the name there could give other images for those of the registry.
func TestEnsure_AMirrorIsNeverAUserOfDockerHub(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", imageOf(t, layer(t, reg("from", "origin"))))
	for mirror, want := range map[string]string{
		"harbor":               "harbor:443",
		"https://harbor/proxy": "harbor:443/proxy",
		"http://harbor/proxy/": "http://harbor:80/proxy",
		"https://":             "names no host",
	} {
		s := open(t, image.Config{Registries: map[string]image.Registry{h.host: {Mirror: mirror}}})
		_, err := s.Ensure(t.Context(), ref, image.IfNotPresent, nil)
		wantError(t, err, gondola.ErrInvalid, mirror, want)
	}
	for _, mirror := range []string{"harbor:443/proxy", "https://harbor.example/proxy", "localhost/proxy", "192.0.2.1", "http://[2001:db8::1]:5000"} {
		if err := image.CheckMirror(mirror); err != nil {
			t.Errorf("CheckMirror(%q) = %v", mirror, err)
		}
	}
}

func TestEnsure_PrivateAddressIsNotAskedInTheClear(t *testing.T) {
	s := open(t, image.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	// 10.255.255.255:1 does not answer; what matters is that no plain http is tried, which would say so.
	_, err := s.Ensure(ctx, "localhost.invalid:1/a:1", image.IfNotPresent, nil)
	wantError(t, err, gondola.ErrUnavailable, "localhost.invalid:1")
}

func TestEnsure_DamagedContentFromTheRegistryIsNeverUsed(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", imageOf(t, layer(t, reg("a", strings.Repeat("x", 10_000)))))
	for name, spoil := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"other bytes": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			fmt.Fprint(w, "not what it says")
			return true
		},
		"half a pull": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			w.Header().Set("Content-Length", "10000")
			w.Write([]byte("the beginning"))
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, image.Config{Dir: dir})
			h.interceptWith(spoil)
			_, err := s.Ensure(t.Context(), ref, image.IfNotPresent, nil)
			wantError(t, err, gondola.ErrUnavailable, ref)
			blobs, _ := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
			trees, _ := os.ReadDir(filepath.Join(dir, "trees"))
			tmp, _ := os.ReadDir(filepath.Join(dir, "tmp"))
			if len(blobs)+len(trees)+len(tmp) != 0 || s.Cached(ref) {
				t.Errorf("left behind: blobs %v, trees %v, tmp %v", blobs, trees, tmp)
			}
			h.interceptWith(nil)
			ensure(t, s, ref, image.IfNotPresent)
		})
	}
}

func TestEnsure_DamagedDiskIsRepaired(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", imageOf(t, layer(t, reg("a", strings.Repeat("x", 100_000))), layer(t, reg("b", "2"))))
	dir := t.TempDir()
	s := open(t, image.Config{Dir: dir})
	img := ensure(t, s, ref, image.IfNotPresent)

	// A tree removed by hand comes back from the blobs, with no registry.
	h.interceptWith(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
	if err := os.RemoveAll(img.Tree); err != nil {
		t.Fatal(err)
	}
	if s.Cached(ref) {
		t.Error("Cached without a tree")
	}
	if got := content(t, ensure(t, s, ref, image.IfNotPresent), "b"); got != "2" {
		t.Errorf("b = %q", got)
	}
	// The marker gone: what is there is not trusted.
	if err := os.Remove(filepath.Join(filepath.Dir(img.Tree), "complete")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(img.Tree, "b"), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := content(t, ensure(t, s, ref, image.Never), "b"); got != "2" {
		t.Errorf("b = %q", got)
	}
	h.interceptWith(nil)

	// Blobs flipped on disk, same size: found by digest, fetched again.
	blobs, _ := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	for _, b := range blobs {
		path := filepath.Join(dir, "blobs/sha256", b.Name())
		data, _ := os.ReadFile(path)
		data[len(data)/2] ^= 0xff
		os.Chmod(path, 0o644)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(img.Tree)); err != nil {
		t.Fatal(err)
	}
	again := ensure(t, s, ref, image.IfNotPresent)
	if got := content(t, again, "a") + content(t, again, "b"); got != strings.Repeat("x", 100_000)+"2" {
		t.Errorf("content after repair has %d bytes", len(got))
	}
}

func TestOpen_RemovesWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tmp/tree-1/rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	open(t, image.Config{Dir: dir})
	if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
}
