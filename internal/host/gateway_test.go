package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/worker"
)

// atGateway is a Machine with these paths of gateway one of network blue.
func atGateway(id string, paths ...worker.HostPath) worker.HostMachine {
	m := machine(id)
	m.Network, m.Gateway = "blue", "one"
	for i := range paths {
		paths[i].Volume = string(rune('a' + i))
	}
	m.Paths = paths
	return m
}

func (b *bench) files() string { return filepath.Join(b.dir, "gateways", "blue", "one", "files") }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(raw)
}

func TestPaths_AreSharedByTheMachinesOfAGateway(t *testing.T) {
	b := newBench(t)
	w := b.host.ForWorker("fra", 2, gondola.Resources{})
	hosts := worker.HostPath{Path: "/etc/hosts", Type: gondola.PathFileOrCreate}
	one, err := w.Prepare(t.Context(), atGateway("aa01", worker.HostPath{Path: "/var/lib/x"}, hosts), true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Release(t.Context(), "aa01", true)
	two, err := w.Prepare(t.Context(), atGateway("aa02", worker.HostPath{Path: "/var/lib", Type: gondola.PathDirectory}, hosts), true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(one.Paths["a"], "word"), "shared")
	if got := read(t, filepath.Join(two.Paths["a"], "x", "word")); got != "shared" {
		t.Errorf("the other Machine reads %q", got)
	}
	if got := read(t, two.Paths["b"]); !strings.Contains(got, "10.127.240.65\tone\n") {
		t.Errorf("/etc/hosts of the gateway is %q", got)
	}
	again, err := w.Prepare(t.Context(), atGateway("aa02", worker.HostPath{Path: "/var/lib"}, hosts), true)
	if err != nil || read(t, filepath.Join(again.Paths["a"], "x", "word")) != "shared" {
		t.Errorf("Prepare again = %v", err)
	}
	if err := w.Release(t.Context(), "aa02", true); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(one.Paths["a"], "word")); got != "shared" {
		t.Errorf("after the other Machine's end: %q", got)
	}
	hn := atGateway("aa03")
	hn.HostNetwork = true
	p, err := w.Prepare(t.Context(), hn, true)
	if err != nil || p.Hosts != read(t, filepath.Join(b.files(), "etc", "hosts")) {
		t.Errorf("Prepare with the gateway's network = %q, %v; want its /etc/hosts", p.Hosts, err)
	}
	if err := w.Release(t.Context(), "aa03", true); err != nil {
		t.Fatal(err)
	}
}

func TestPaths_NeverLeadToTheHost(t *testing.T) {
	b := newBench(t)
	w := b.host.ForWorker("fra", 2, gondola.Resources{})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.Mkdir(secret, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(secret, "key"), "the host's")
	one, err := w.Prepare(t.Context(), atGateway("aa01", worker.HostPath{Path: "/data"}), true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Release(t.Context(), "aa01", true)
	data := one.Paths["a"]
	for name, to := range map[string]string{"out": secret, "up": "../../../../../../../../../.." + secret, "back": "/data"} {
		if err := os.Symlink(to, filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/data/out", "/data/up", "/../../../.." + secret} {
		p, err := w.Prepare(t.Context(), atGateway("aa02", worker.HostPath{Path: path, Type: gondola.PathDirectory}), true)
		if !errors.Is(err, gondola.ErrPrecondition) {
			t.Errorf("hostPath %s = %v, %v; want an ErrPrecondition: there is no such thing on the node", path, p.Paths, err)
		}
	}
	p, err := w.Prepare(t.Context(), atGateway("aa02", worker.HostPath{Path: "/data/back"}), true)
	if err != nil {
		t.Fatalf("a link within the node: %v", err)
	}
	defer w.Release(t.Context(), "aa02", true)
	write(t, filepath.Join(p.Paths["a"], "word"), "within")
	if got := read(t, filepath.Join(data, "word")); got != "within" {
		t.Errorf("by the link comes %q", got)
	}
	// What is held stays what it was, whatever becomes of its name.
	if err := os.Rename(filepath.Join(b.files(), "data"), filepath.Join(b.files(), "gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(b.files(), "data")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(p.Paths["a"], "word")); got != "within" {
		t.Errorf("after its name was given to a link: %q", got)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(p.Paths["a"], &fs); err != nil || fs.Flags&unix.ST_NODEV == 0 || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags of the mount are %#x, %v; want nodev and nosuid", fs.Flags, err)
	}
}

func TestPaths_AreOfTheTypeThatIsAskedFor(t *testing.T) {
	b := newBench(t)
	w := b.host.ForWorker("fra", 2, gondola.Resources{})
	if _, err := w.Prepare(t.Context(), atGateway("aa01", worker.HostPath{Path: "/dir"}, worker.HostPath{Path: "/tmp/file", Type: gondola.PathFileOrCreate}), true); err != nil {
		t.Fatal(err)
	}
	if err := w.Release(t.Context(), "aa01", true); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(b.files(), "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, kind, wrong string }{
		{"/dir", gondola.PathDirectory, ""},
		{"/dir", gondola.PathDirectoryOrCreate, ""},
		{"/dir", gondola.PathFile, "/dir is not a file"},
		{"/dir", gondola.PathFileOrCreate, "/dir is not a file"},
		{"/tmp/file", "", ""},
		{"/tmp/file", gondola.PathFile, ""},
		{"/tmp/file", gondola.PathDirectory, "/tmp/file is not a directory"},
		{"/tmp/file", gondola.PathDirectoryOrCreate, "/tmp/file is not a directory"},
		{"/none", gondola.PathDirectory, "/none does not exist"},
		{"/none", gondola.PathFile, "/none does not exist"},
		{"/none/file", gondola.PathFileOrCreate, "/none/file does not exist"},
		{"/tmp/file/below", "", "not a directory"},
		{"/fifo", "", "neither a directory nor a file"},
		{"/", gondola.PathDirectory, ""},
	} {
		_, err := w.Prepare(t.Context(), atGateway("aa02", worker.HostPath{Path: tt.path, Type: tt.kind}), true)
		switch {
		case tt.wrong == "" && err != nil:
			t.Errorf("%s as %q: %v", tt.path, tt.kind, err)
		case tt.wrong != "" && (!errors.Is(err, gondola.ErrPrecondition) || !strings.Contains(err.Error(), tt.wrong)):
			t.Errorf("%s as %q: %v, want %q", tt.path, tt.kind, err, tt.wrong)
		}
		if err := w.Release(t.Context(), "aa02", true); err != nil {
			t.Fatal(err)
		}
	}
}
