package runc_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/runc"
	_ "gondola/internal/driver/runc/sandbox" // what is tested is built from it: where it changed, an earlier result is void
	"gondola/internal/pilot"
)

// built returns a directory with gondola-pilot and with an image, built once for all tests of a run.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "rct-")
	if err != nil {
		return "", err
	}
	for out, pkg := range map[string]string{"gondola-pilot": "gondola/cmd/gondola-pilot", "image/program": "gondola/internal/driver/drivertest/program/cmd"} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%w: %s", err, out)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	return dir, os.Mkdir(filepath.Join(dir, "image/tmp"), 0o777)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getuid() == 0 {
		if dir, _ := built(); dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

func TestDriver(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Fixture {
		d := newDriver(t)
		return drivertest.Fixture{
			Driver: d,
			Spec: func(t *testing.T, containers []pilot.Container, volumes []pilot.Volume) pilot.Spec {
				spec := newSpec(t, d)
				dir, _ := built()
				for _, c := range containers {
					c.Image, c.Tree = "program", filepath.Join(dir, "image")
					spec.Containers = append(spec.Containers, c)
				}
				spec.Volumes = volumes
				return spec
			},
			Renew: place.Renew,
			KillSandbox: func(t *testing.T, spec pilot.Spec) {
				drivertest.Kill9(t, filepath.Join(spec.RunDir, driver.SandboxRecord))
			},
			KillPilot: func(t *testing.T, spec pilot.Spec) { drivertest.Kill9(t, filepath.Join(spec.Dir, "pilot.json")) },
		}
	})
}

func newDriver(t *testing.T) *runc.Driver {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("namespaces are made by root")
	}
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runc.Find(""); err != nil {
		t.Fatal(err)
	}
	return runc.New(runc.Config{PilotPath: filepath.Join(dir, "gondola-pilot")})
}

// place is where the Machines of these tests run.
const place drivertest.Place = "rct"

// newSpec returns the Spec of a Machine without containers, of which nothing may be left when the test ends.
func newSpec(t *testing.T, d *runc.Driver) pilot.Spec {
	t.Helper()
	return place.Spec(t, d)
}

func TestFind_NamesThePackageOfAMissingProgram(t *testing.T) {
	_, err := runc.Find("/no/such/runc")
	if !errors.Is(err, gondola.ErrUnsupported) || !strings.Contains(err.Error(), "apt-get install runc") {
		t.Errorf("Find = %v, want ErrUnsupported and how to install it", err)
	}
}
