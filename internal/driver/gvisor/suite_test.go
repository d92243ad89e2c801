package gvisor_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"gondola"
	"gondola/internal/driver/drivertest"
	"gondola/internal/pilot"
)

func TestDriver(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Fixture {
		d := newDriver(t)
		return drivertest.Fixture{
			Driver: d,
			Spec: func(t *testing.T, containers []pilot.Container, volumes []pilot.Volume) pilot.Spec {
				spec := newSpec(t, d, nil)
				dir, _ := built()
				for _, c := range containers {
					c.Image, c.Tree = "program", filepath.Join(dir, "suite")
					spec.Containers = append(spec.Containers, c)
				}
				spec.Volumes = volumes
				return spec
			},
			Renew: func(t *testing.T, spec pilot.Spec) {
				removeNetNS(spec.Machine)
				makeNetNS(t, spec.Machine)
			},
			KillSandbox: func(t *testing.T, spec pilot.Spec) { kill9(t, filepath.Join(spec.RunDir, "sandbox.json")) },
			KillPilot:   func(t *testing.T, spec pilot.Spec) { kill9(t, filepath.Join(spec.Dir, "pilot.json")) },
		}
	})
}

func makeNetNS(t *testing.T, id gondola.MachineID) string {
	t.Helper()
	name := "gvt-" + string(id)
	for _, args := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	return "/run/netns/" + name
}

func removeNetNS(id gondola.MachineID) { exec.Command("ip", "netns", "del", "gvt-"+string(id)).Run() }
