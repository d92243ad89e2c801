package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/image"
)

// unpack pushes layers as an image, pulls it, and lists the tree.
func unpack(t *testing.T, layers ...v1.Layer) (image.Image, []string) {
	t.Helper()
	h := newHub(t)
	img := ensure(t, open(t, image.Config{}), h.push(t, "app:1", imageOf(t, layers...)), image.IfNotPresent)
	var names []string
	err := filepath.WalkDir(img.Tree, func(path string, d fs.DirEntry, err error) error {
		if path != img.Tree {
			names = append(names, strings.TrimPrefix(path, img.Tree+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return img, names
}

func TestUnpack_WhiteoutsHideLowerLayersOnly(t *testing.T) {
	_, names := unpack(t,
		layer(t, dir("etc/"), reg("etc/old", ""), reg("etc/keep", ""), dir("data/"), reg("data/a", ""), dir("data/sub/"), reg("data/sub/b", ""), reg("etc/was-file", "")),
		layer(t, reg("etc/.wh.old", ""), reg("data/new", ""), reg("data/sub/c", ""), reg("data/.wh..wh..opq", ""), reg("etc/.wh.never-there", ""),
			dir("etc/was-file/"), reg("etc/was-file/x", ""), reg("again", "")),
		layer(t, reg("again", "2"), reg(".wh.again", "")),
	)
	want := []string{"again", "data", "data/new", "data/sub", "data/sub/c", "etc", "etc/keep", "etc/was-file", "etc/was-file/x"}
	if !slices.Equal(names, want) {
		t.Errorf("tree holds %q, want %q", names, want)
	}
}

func TestUnpack_LinksModesOwnersTimesAndAttributes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners and file capabilities need root")
	}
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw=ep
	when := time.Unix(1_600_000_000, 0)
	img, _ := unpack(t, layer(t,
		file{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: when}, ""},
		file{tar.Header{Name: "d/ping", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 12, Gid: 34, ModTime: when,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hi"}}, "ELF"},
		hard("d/pong", "d/ping"), sym("d/link", "/d/ping"),
		file{tar.Header{Name: "d/pipe", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
	))
	var st, other unix.Stat_t
	if err := errors.Join(unix.Lstat(img.Tree+"/d/ping", &st), unix.Lstat(img.Tree+"/d/pong", &other)); err != nil {
		t.Fatal(err)
	}
	if st.Ino != other.Ino || st.Mode&0o7777 != 0o4755 || st.Uid != 12 || st.Gid != 34 || st.Mtim.Sec != when.Unix() {
		t.Errorf("ping is %+v, pong %+v", st, other)
	}
	buf := make([]byte, 64)
	if n, err := unix.Lgetxattr(img.Tree+"/d/ping", "security.capability", buf); err != nil || string(buf[:n]) != capability {
		t.Errorf("security.capability = %x, %v", buf[:max(n, 0)], err)
	}
	if fi, err := os.Stat(img.Tree + "/d"); err != nil || fi.Mode() != fs.ModeDir|fs.ModeSticky|0o777 || !fi.ModTime().Equal(when) {
		t.Errorf("d is %v %v, %v", fi.Mode(), fi.ModTime(), err)
	}
	if to, err := os.Readlink(img.Tree + "/d/link"); err != nil || to != "/d/ping" {
		t.Errorf("link leads to %q, %v", to, err)
	}
	if fi, err := os.Lstat(img.Tree + "/d/pipe"); err != nil || fi.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("pipe: %v, %v", fi, err)
	}
	if fi, _ := os.Stat(img.Tree); fi.Mode().Perm() != 0o755 || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("root of the tree is %v", fi.Mode())
	}
}

func TestUnpack_NothingLeavesTheTree(t *testing.T) {
	outside := t.TempDir()
	img, _ := unpack(t,
		layer(t, sym("abs", outside), sym("rel", "../../../../../../../../.."+outside), sym("file", outside+"/target"), dir("inside"+outside)),
		layer(t, reg("../../climb", "in"), reg("file", "replaced")),
		layer(t, reg("up/../../../climb2", "in"), sym("run", "/inside"), reg("run/x", "through a link inside")),
	)
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("outside the tree: %v", left)
	}
	for name, want := range map[string]string{"climb": "in", "climb2": "in", "file": "replaced", "inside/x": "through a link inside"} {
		if got := content(t, img, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}

	h := newHub(t)
	s := open(t, image.Config{})
	for name, evil := range map[string]v1.Layer{
		"through an absolute link": layer(t, sym("abs", outside), reg("abs/x", "")),
		"by a hard link":           layer(t, hard("shadow", "../../../../../../../../etc/shadow")),
		"through /proc":            layer(t, sym("p", "/proc/self/root"+outside), reg("p/x", "")),
	} {
		ref := h.push(t, "evil:1", imageOf(t, evil))
		if img, err := s.Ensure(t.Context(), ref, image.Always, nil); err == nil {
			// Resolved inside the tree is as good as refused.
			if _, err := os.Lstat(filepath.Join(img.Tree, "shadow")); err == nil {
				t.Errorf("%s: shadow is in the tree", name)
			}
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Errorf("%s: outside the tree: %v", name, left)
		}
	}
}

func TestUnpack_LayersByContentWhateverTheirType(t *testing.T) {
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(layerTar(t, reg("z", "std"))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	h := newHub(t)
	dir := t.TempDir()
	s := open(t, image.Config{Dir: dir})
	plain := static.NewLayer(layerTar(t, reg("p", "lain")), types.OCIUncompressedLayer)
	img := ensure(t, s, h.push(t, "mixed:1", imageOf(t, layer(t, reg("g", "zip")), plain)), image.IfNotPresent)
	if got := content(t, img, "g") + content(t, img, "p"); got != "ziplain" {
		t.Errorf("content = %q", got)
	}
	// The config's diff ID is of the uncompressed archive; a static layer claims its compressed one, which must be noticed.
	wrong := static.NewLayer(packed.Bytes(), types.OCILayerZStd)
	_, err = s.Ensure(t.Context(), h.push(t, "wrong:1", imageOf(t, wrong)), image.IfNotPresent, nil)
	wantError(t, err, gondola.ErrImage, "digest")
}
