package fake_test

import (
	"testing"

	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

func TestDriver(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Fixture {
		d := fake.NewDriver()
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		h := fake.NewHost(fake.HostConfig{Dir: t.TempDir()})
		return drivertest.Fixture{
			Driver: d,
			Spec: func(t *testing.T, containers []pilot.Container, volumes []pilot.Volume) pilot.Spec {
				spec := prepare(t, h, containers...)
				spec.Volumes = volumes
				return spec
			},
			KillSandbox: func(t *testing.T, spec pilot.Spec) {
				if err := d.KillSandbox(spec.Machine); err != nil {
					t.Fatal(err)
				}
			},
			KillPilot: func(t *testing.T, spec pilot.Spec) {
				if err := d.KillPilot(spec.Machine); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
