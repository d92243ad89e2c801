package worker_test

import (
	"errors"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/worker"
)

// named is a driver under another name.
type named struct {
	driver.Driver
	name string
}

func (n named) Name() string { return n.name }

func on(driver string) gondola.Config {
	c := longRunning()
	c.Gondola = &gondola.ConfigExtension{Driver: driver}
	return c
}

func TestDriver_IsAskedForByConfigWhereTheOperatorAllowsIt(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30})
	allowed := []string{"fake"}
	r.change = func(c *worker.Config) {
		c.Drivers = map[string]driver.Driver{"fake": r.via, "runc": named{r.via, "runc"}}
		c.Allowed, c.DefaultDriver = allowed, "fake"
	}
	w, stop := r.run()
	_, err := w.Create(t.Context(), app, gondola.CreateRequest{Config: on("runc")})
	if !errors.Is(err, gondola.ErrUnsupported) || !strings.Contains(err.Error(), "--allow-driver runc") {
		t.Errorf("Create = %v, want ErrUnsupported and who allows it", err)
	}
	if a, err := w.Ask(t.Context(), gondola.Ask{Driver: "runc"}); err != nil || len(a.Refusals) != 1 || !strings.Contains(a.Refusals[0].Reason, "runc") {
		t.Errorf("Ask = %+v, %v, want a refusal that names runc", a, err)
	}
	stop()

	allowed = []string{"fake", "runc"}
	w, stop = r.run()
	m := r.create(w, gondola.CreateRequest{Config: on("runc")})
	r.await(w, m.ID, gondola.Started)
	stop()

	// What runs keeps its driver when nobody may ask for it any more, also through an update that does not name it.
	allowed = []string{"fake"}
	w, _ = r.run()
	r.await(w, m.ID, gondola.Started)
	ref := gondola.Ref{App: app, ID: m.ID}
	config := on("")
	config.Env = map[string]string{"NEW": "1"}
	if _, err := w.Update(t.Context(), ref, gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: config}}); err != nil {
		t.Errorf("Update = %v", err)
	}
	r.await(w, m.ID, gondola.Started)
	if _, err := w.Update(t.Context(), ref, gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: on("fake")}}); !errors.Is(err, gondola.ErrUnsupported) {
		t.Errorf("Update to another driver = %v, want ErrUnsupported", err)
	}
}

func TestSysctls_AreRefusedByNameWhereTheDriverHasNone(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30})
	w, _ := r.run()
	c := gondola.Config{Containers: []gondola.Container{{Name: "main", Image: "test/app",
		Gondola: &gondola.ContainerExtension{Security: &gondola.Security{Sysctls: map[string]string{"net.core.somaxconn": "9"}}}}}}
	_, err := w.Create(t.Context(), app, gondola.CreateRequest{Config: c})
	if !errors.Is(err, gondola.ErrUnsupported) || !strings.Contains(err.Error(), "container main: security.sysctls") || !strings.Contains(err.Error(), "fake") {
		t.Errorf("Create = %v, want ErrUnsupported that names field and driver", err)
	}
}
