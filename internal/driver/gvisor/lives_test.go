package gvisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/gvisor"
	"gondola/internal/gondolatest"
	"gondola/internal/pilot"
	"gondola/internal/worker"
)

// realPlaces is a fake host whose Machines have real directories and network namespaces, and an image with the suite's program.
type realPlaces struct {
	worker.Host
	t *testing.T
	d *gvisor.Driver

	mu     sync.Mutex
	places map[gondola.MachineID]pilot.Spec
}

func (h *realPlaces) EnsureImage(ctx context.Context, reference, policy string, c []gondola.RegistryCredential) (worker.Image, error) {
	if reference != "suite" {
		return worker.Image{}, gondola.Errorf(gondola.ErrImage, "there is no image %q", reference)
	}
	dir, err := built()
	return worker.Image{ID: "suite@sha256:1", Digest: "sha256:1", Tree: filepath.Join(dir, "suite"), Entrypoint: []string{"/program"}}, err
}

func (h *realPlaces) Prepare(ctx context.Context, m worker.HostMachine, fresh bool) (worker.Prepared, error) {
	p, err := h.Host.Prepare(ctx, m, fresh)
	if err != nil {
		return p, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s, there := h.places[m.ID]
	switch {
	case !there:
		s = place.Spec(h.t, h.d)
		h.places[m.ID] = s
	case fresh:
		place.Renew(h.t, s)
	}
	if err := os.MkdirAll(s.RunDir, 0o700); err != nil {
		return p, err
	}
	p.Dir, p.RunDir, p.Socket, p.NetNS, p.Cgroup, p.Addresses = s.Dir, s.RunDir, s.Socket, s.NetNS, s.Cgroup, nil
	return p, os.MkdirAll(p.Dir, 0o700)
}

// TestLives_OnRealSandboxes is the random test of the state machine, for a bounded number of steps.
func TestLives_OnRealSandboxes(t *testing.T) {
	d := newDriver(t)
	p := gondolatest.New(t, gondolatest.Options{Worker: func(c *worker.Config) {
		c.Host = &realPlaces{Host: c.Host, t: t, d: d, places: map[gondola.MachineID]pilot.Spec{}}
		c.Drivers, c.DefaultDriver = map[string]driver.Driver{"gvisor": d}, "gvisor"
	}})
	p.NewApp("lives")
	config := func(kind string) gondola.Config {
		c := gondola.Config{Image: "suite", Init: gondola.Init{Cmd: []string{"run"}}, Restart: &gondola.RestartPolicy{Policy: gondola.RestartNo}}
		switch kind {
		case "ends":
			c.Init.Cmd = []string{"exit", "0"}
		case "broken":
			c.Image = "nobody"
		}
		return c
	}
	w := p.Workers[0]
	gondolatest.Lives{Platform: p.Client, App: "lives", Config: config, Lives: 4, Steps: 12}.Run(t)
	gondolatest.Lives{Platform: p.Client, App: "lives", Config: config, Lives: 2, Steps: 10, Interrupt: func() { w.Stop(); w.Start() }}.Run(t)
	if left, _ := filepath.Glob(fmt.Sprintf("/run/gondola-%s/*/sandbox.json", drivertest.Place(place))); len(left) > 0 {
		t.Errorf("sandboxes are left: %v", left)
	}
}
