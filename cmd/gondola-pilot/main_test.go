package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

// beThePilot is set in the environment of a test binary that is to be gondola-pilot.
const beThePilot = "GONDOLA_TEST_PILOT"

func TestMain(m *testing.M) {
	if os.Getenv(beThePilot) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestRun_AnybodyReadsAPayload: a daemon that was started with a strict umask hands it to its pilots.
func TestRun_AnybodyReadsAPayload(t *testing.T) {
	dir := t.TempDir()
	spec := pilot.Spec{Machine: "m1", Version: "01", Dir: filepath.Join(dir, "disk"), RunDir: filepath.Join(dir, "run"), Socket: filepath.Join(dir, "s"),
		Containers: []pilot.Container{{Name: "main", Args: []string{"true"}}}, Volumes: []pilot.Volume{{Name: "config", Kind: pilot.VolumePayload}}}
	if err := os.Mkdir(spec.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := pilot.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	payload := gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"config": {{Path: "sub/file", Data: []byte("text")}}}}
	if err := pilot.WritePayload(spec.RunDir, payload); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", "-c", `umask 077; exec "$0" run --driver=runc "$1"`, os.Args[0], spec.Dir)
	c.Env = append(os.Environ(), beThePilot+"=1")
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "no cgroup") {
		t.Fatalf("%v, %s; want no sandbox without a cgroup, once its volumes are there", err, out)
	}
	volume, seen := filepath.Join(spec.RunDir, "payload", "config"), 0
	err := filepath.WalkDir(volume, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&0o004 == 0 || d.IsDir() && info.Mode()&0o001 == 0 {
			t.Errorf("%s has mode %v, want everybody to read it", path, info.Mode())
		}
		seen++
		return err
	})
	if err != nil || seen != 4 { // the volume, its present directory, sub and file
		t.Errorf("%d files and directories are in the volume, %v; want 4", seen, err)
	}
}

// TestInit_IsSmall: every Machine runs this program several times over, so whatever a package of ours does before main, such as to compile a
// large regular expression, each Machine pays in time and memory as often.
func TestInit_IsSmall(t *testing.T) {
	const most = 128 << 10 // bytes allocated by one package

	c := exec.Command(os.Args[0], "-test.run=^$")
	c.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inits := regexp.MustCompile(`(?m)^init (\S+) @.*, (\d+) bytes,`).FindAllStringSubmatch(string(out), -1)
	ours := 0
	for _, m := range inits {
		if m[1] != "gondola" && !strings.HasPrefix(m[1], "gondola/") {
			continue
		}
		ours++
		if n, err := strconv.Atoi(m[2]); err != nil || n > most {
			t.Errorf("the init of package %s allocates %s bytes, want %d at most: do it when it is wanted", m[1], m[2], most)
		}
	}
	if ours == 0 {
		t.Errorf("no init of a package of ours is traced in %q", out)
	}
}
