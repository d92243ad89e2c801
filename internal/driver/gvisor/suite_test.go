package gvisor_test

import (
	"path/filepath"
	"testing"

	"gondola/internal/driver"
	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/gvisor"
	"gondola/internal/pilot"
)

func TestDriver(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Fixture { return fixture(newDriver(t)) })
}

// TestDriver_Warm is the suite on sandboxes that stood ready, where they suit.
func TestDriver_Warm(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Fixture {
		d := newWarmDriver(t, 1, driver.Kind{})
		f := fixture(d.Driver)
		spec := f.Spec
		f.Spec = func(t *testing.T, containers []pilot.Container, volumes []pilot.Volume) pilot.Spec {
			d.await(t)
			return spec(t, containers, volumes)
		}
		return f
	})
}

func fixture(d *gvisor.Driver) drivertest.Fixture {
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
		Renew:       place.Renew,
		KillSandbox: func(t *testing.T, spec pilot.Spec) { drivertest.Kill9(t, filepath.Join(spec.RunDir, "sandbox.json")) },
		KillPilot:   func(t *testing.T, spec pilot.Spec) { drivertest.Kill9(t, filepath.Join(spec.Dir, "pilot.json")) },
	}
}
