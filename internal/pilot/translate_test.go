package pilot

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
)

func TestExpand(t *testing.T) {
	known := map[string]string{"A": "x", "B": "$(A)", "": "empty"}
	for in, want := range map[string]string{
		"":            "",
		"plain":       "plain",
		"$(A)":        "x",
		"a$(A)b$(A)c": "axbxc",
		"$(B)":        "$(A)", // what was put in is not looked at again
		"$$(A)":       "$(A)",
		"$$$(A)":      "$x",
		"$$$$(A)":     "$$(A)",
		"$(NONE)":     "$(NONE)",
		"$(A":         "$(A",
		"$A":          "$A",
		"$":           "$",
		"a$":          "a$",
		"$$":          "$",
		"$()":         "empty",
		"$($(A))":     "$($(A))",
		"${A} $(A)":   "${A} x",
	} {
		if got := expand(in, known); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCommand_LaterVariablesWinAndSeeEarlierOnes(t *testing.T) {
	c := Container{Name: "c", Args: []string{"run", "$(B)", "$(IMAGE)"}, Env: []string{"IMAGE=1", "A=image"}}
	c.Config.Gondola = &gondola.ContainerExtension{Expand: true, Env: []gondola.EnvVar{
		{Name: "A", Value: "a"}, {Name: "B", Value: "$(A)$(C)"}, {Name: "C", Value: "c"}, {Name: "PW", Secret: true}, {Name: "IP", Field: "pod_ips"},
		{Name: "D", Value: "$(PW)"}}}
	spec := &Spec{Hostname: "h"}
	args, env, _, err := command(spec, &c, map[string]string{"PW": "s$(A)"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"run", "a$(C)", "$(IMAGE)"}; !reflect.DeepEqual(args, want) {
		t.Errorf("args = %q, want %q: only Kubernetes' variables are known", args, want)
	}
	want := []string{"IMAGE=1", "A=a", "B=a$(C)", "C=c", "PW=s$(A)", "IP=", "D=s$(A)", "HOSTNAME=h", defaultPath}
	if !reflect.DeepEqual(env, want) {
		t.Errorf("env = %q, want %q", env, want)
	}
	if _, _, _, err := command(spec, &c, nil); err == nil || !strings.Contains(err.Error(), "PW") {
		t.Errorf("without the payload = %v, want an error that names PW", err)
	}
	c.Config.Gondola.Env[3].Optional = true
	want = []string{"IMAGE=1", "A=a", "B=a$(C)", "C=c", "IP=", "D=$(PW)", "HOSTNAME=h", defaultPath}
	if _, env, _, err := command(spec, &c, nil); err != nil || !reflect.DeepEqual(env, want) {
		t.Errorf("without the payload of an optional variable = %q, %v, want %q", env, err, want)
	}
}

func TestCommand_TakesVariablesFromFilesOfVolumes(t *testing.T) {
	spec := &Spec{Dir: t.TempDir(), Volumes: []Volume{{Name: "v", Kind: VolumeDisk}, {Name: "m", Kind: VolumeMemory}}}
	dir := filepath.Join(spec.Dir, "volumes", "v")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "env")
	os.WriteFile(outside, []byte("A='stolen'\n"), 0o644)
	os.WriteFile(filepath.Join(dir, "sub", "env"), []byte("# comment\n\n  A='one'\nB='two\nlines' # said twice\nA='again'\nE= 'empty'\nF='it=has $(A)'"), 0o644)
	os.WriteFile(filepath.Join(dir, "bad"), []byte("A=plain\n"), 0o644)
	os.Symlink(outside, filepath.Join(dir, "out"))
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		file gondola.EnvFile
		want string // "": it is not set
		err  string
	}{
		{gondola.EnvFile{Volume: "v", Path: "sub/env", Key: "A"}, "X=one", ""},
		{gondola.EnvFile{Volume: "v", Path: "sub/env", Key: "B"}, "X=two\nlines", ""},
		{gondola.EnvFile{Volume: "v", Path: "sub/env", Key: "F"}, "X=it=has $(A)", ""},
		{gondola.EnvFile{Volume: "v", Path: "sub/env", Key: "E"}, "", `key "E" not found`},
		{gondola.EnvFile{Volume: "v", Path: "sub/env", Key: "NONE"}, "", `key "NONE" not found`},
		{gondola.EnvFile{Volume: "v", Path: "sub/env", Key: "NONE", Optional: true}, "", ""},
		{gondola.EnvFile{Volume: "v", Path: "none", Key: "A", Optional: true}, "", "no such file"},
		{gondola.EnvFile{Volume: "v", Path: "bad", Key: "A"}, "", "single quotes"},
		{gondola.EnvFile{Volume: "v", Path: "out", Key: "A"}, "", "escapes"},
		{gondola.EnvFile{Volume: "v", Path: "../../spec.json", Key: "A"}, "", "escapes"},
		{gondola.EnvFile{Volume: "v", Path: "fifo", Key: "A"}, "", "not a file"},
		{gondola.EnvFile{Volume: "m", Path: "env", Key: "A"}, "", "cannot find the volume"},
	} {
		c := Container{Name: "c", Args: []string{"run"}}
		c.Config.Gondola = &gondola.ContainerExtension{Expand: true, Env: []gondola.EnvVar{{Name: "X", File: &row.file}}}
		_, env, _, err := command(spec, &c, nil)
		if row.err != "" {
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%+v: error %v, want %q", row.file, err, row.err)
			}
			continue
		}
		want := []string{row.want, defaultPath}
		if row.want == "" {
			want = []string{defaultPath}
		}
		if err != nil || !reflect.DeepEqual(env, want) {
			t.Errorf("%+v: env = %q, %v, want %q", row.file, env, err, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	tree := t.TempDir()
	os.MkdirAll(filepath.Join(tree, "etc"), 0o755)
	os.WriteFile(filepath.Join(tree, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"), 0o644)
	os.WriteFile(filepath.Join(tree, "etc/group"), []byte("staff:x:50:app\nextra:x:60:other,app\n"), 0o644)
	i := func(n int64) *int64 { return &n }
	for _, row := range []struct {
		name, user string
		sec        *gondola.Security
		want       Identity
		home, err  string
	}{
		{"nobody named", "", nil, Identity{}, "/root", ""},
		{"name", "app", nil, Identity{UID: 1000, GID: 1001, Groups: []uint32{50, 60}}, "/home/app", ""},
		{"number that is known", "1000", nil, Identity{UID: 1000, GID: 1001, Groups: []uint32{50, 60}}, "/home/app", ""},
		{"unknown number", "7", nil, Identity{UID: 7}, "/", ""},
		{"group by name", "7:staff", nil, Identity{UID: 7, GID: 50}, "/", ""},
		{"unknown name", "ghost", nil, Identity{}, "", `user "ghost"`},
		{"unknown group", "app:ghosts", nil, Identity{}, "", `group "ghosts"`},
		{"override", "app:staff", &gondola.Security{User: i(5), Group: i(6), Groups: []int64{8}}, Identity{UID: 5, GID: 6, Groups: []uint32{8}}, "/", ""},
		{"non-root as root", "", &gondola.Security{NonRoot: true}, Identity{}, "", "will run as root"},
		{"non-root by name", "app", &gondola.Security{NonRoot: true}, Identity{}, "", "non-numeric user (app)"},
		{"non-root by number", "1000", &gondola.Security{NonRoot: true}, Identity{UID: 1000, GID: 1001, Groups: []uint32{50, 60}}, "/home/app", ""},
	} {
		c := &Container{Name: "c", Tree: tree, User: row.user}
		if row.sec != nil {
			c.Config.Gondola = &gondola.ContainerExtension{Security: row.sec}
		}
		id, home, err := identity(&Spec{}, c)
		switch {
		case row.err != "":
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%s: error = %v, want %q", row.name, err, row.err)
			}
		case err != nil || !reflect.DeepEqual(id, row.want) || home != row.home:
			t.Errorf("%s: = %+v, %q, %v, want %+v, %q", row.name, id, home, err, row.want, row.home)
		}
	}
}

func TestIdentity_LinksOutOfTheImageAreNotFollowed(t *testing.T) {
	tree, outside := t.TempDir(), t.TempDir()
	os.WriteFile(filepath.Join(outside, "passwd"), []byte("evil:x:0:0::/:/bin/sh\n"), 0o644)
	os.Symlink(outside, filepath.Join(tree, "etc"))
	if _, _, err := identity(&Spec{}, &Container{Name: "c", Tree: tree, User: "evil"}); err == nil {
		t.Error("a user was read from outside the image")
	}
}

func TestIdentity_LinksAreFollowedAsInTheContainer(t *testing.T) {
	tree := t.TempDir()
	os.MkdirAll(filepath.Join(tree, "etc"), 0o755)
	os.WriteFile(filepath.Join(tree, "users"), []byte("app:x:7:8::/:/bin/sh\n"), 0o644)
	os.Symlink("/users", filepath.Join(tree, "etc/passwd"))
	if id, _, err := identity(&Spec{}, &Container{Name: "c", Tree: tree, User: "app"}); err != nil || id.UID != 7 {
		t.Errorf("= %+v, %v, want the user of the file that /etc/passwd leads to", id, err)
	}
}

// TestIdentity_OfWhatIsNoFile: it is as good as missing, and keeps nobody waiting.
func TestIdentity_OfWhatIsNoFile(t *testing.T) {
	kinds := map[string]func(path string) error{
		"FIFO":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
	}
	if os.Getuid() == 0 {
		kinds["device"] = func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 9))) } // random numbers without end
	}
	for kind, put := range kinds {
		t.Run(kind, func(t *testing.T) {
			tree := t.TempDir()
			if err := os.Mkdir(filepath.Join(tree, "etc"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"etc/passwd", "etc/group"} {
				if err := put(filepath.Join(tree, name)); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan error, 1)
			go func() {
				id, home, err := identity(&Spec{}, &Container{Name: "c", Tree: tree, User: "7"})
				if err == nil && (!reflect.DeepEqual(id, Identity{UID: 7}) || home != "/") {
					err = fmt.Errorf("= %+v, %q, want the number alone", id, home)
				}
				if lines := database(tree, "etc/passwd"); lines != nil {
					err = fmt.Errorf("%d lines of users were read", len(lines))
				}
				done <- err
			}()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(time.Second):
				t.Error("somebody waits for what is in the place of /etc/passwd")
			}
		})
	}
}

func TestVolume_IsSwappedLikeAKubelets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	file := func(p, data string, mode uint32) gondola.PayloadFile {
		return gondola.PayloadFile{Path: p, Data: []byte(data), Mode: mode}
	}
	read := func(p string) string {
		data, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	if err := swapVolume(dir, []gondola.PayloadFile{file("a", "1", 0o400), file("d/e/f", "2", 0), file("old", "x", 0)}); err != nil {
		t.Fatal(err)
	}
	if read("a") != "1" || read("d/e/f") != "2" {
		t.Errorf("files = %q, %q", read("a"), read("d/e/f"))
	}
	if info, err := os.Stat(filepath.Join(dir, "a")); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("mode = %v, %v", info, err)
	}
	first, _ := os.Readlink(filepath.Join(dir, "..data"))
	if link, _ := os.Readlink(filepath.Join(dir, "a")); link != "..data/a" {
		t.Errorf("a -> %q, want ..data/a", link)
	}
	if err := swapVolume(dir, []gondola.PayloadFile{file("a", "1", 0o400), file("d/e/f", "2", 0), file("old", "x", 0)}); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != first {
		t.Error("the same files were swapped")
	}
	// as after the death of a pilot between the two
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := swapVolume(dir, []gondola.PayloadFile{file("a", "1", 0o400), file("d/e/f", "2", 0), file("old", "x", 0)}); err != nil {
		t.Fatal(err)
	}
	if link, _ := os.Readlink(filepath.Join(dir, "a")); link != "..data/a" {
		t.Errorf("a -> %q after it was missing, want ..data/a", link)
	}
	if err := swapVolume(dir, []gondola.PayloadFile{file("a", "new", 0o444)}); err != nil {
		t.Fatal(err)
	}
	if read("a") != "new" {
		t.Errorf("a = %q, want new", read("a"))
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 3 { // ..data, its directory, a
		t.Errorf("left = %v, want no trace of old", entries)
	}
}

func TestPayload_PathsCannotEscape(t *testing.T) {
	for _, path := range []string{"", ".", "..", "../x", "/etc/passwd", "a/../../x", "..data", "..data/x"} {
		err := checkPayload(gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"v": {{Path: path}}}})
		if err == nil {
			t.Errorf("path %q was accepted", path)
		}
	}
	if checkPayload(gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"../v": nil}}) == nil {
		t.Error("volume ../v was accepted")
	}
}

func TestSubPath_CannotLeaveTheVolume(t *testing.T) {
	vol := t.TempDir()
	os.Symlink("/etc", filepath.Join(vol, "out"))
	for _, sub := range []string{"../x", "/etc", "out", "out/x"} {
		if got, err := subPath(vol, sub, true); err == nil {
			t.Errorf("subPath(%q) = %q, want an error", sub, got)
		}
	}
	os.Mkdir(filepath.Join(vol, "real"), 0o755)
	os.Symlink("real", filepath.Join(vol, "link"))
	if got, err := subPath(vol, "link", true); err != nil || got != "real" {
		t.Errorf("subPath(link) = %q, %v, want real", got, err)
	}
}
