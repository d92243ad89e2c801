package worker_test

import (
	"path/filepath"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

func TestAddContainer_PullIsTriedAgainAndAnotherWorkerProcessKnowsIt(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, stop := r.run()
	pod := gondola.Config{Gondola: &gondola.ConfigExtension{RetryPull: true, RestartBackoff: "kubernetes"},
		Containers: []gondola.Container{{Name: "c", Image: "test/app", Cmd: []string{"trap"}}}}
	m := r.create(w, gondola.CreateRequest{Config: pod})
	r.await(w, m.ID, gondola.Started)
	debug := gondola.Container{Name: "debug", Image: "later/image", Entrypoint: []string{"/program"}, Cmd: []string{"run"}}
	if err := w.AddContainer(t.Context(), m.Ref(), gondola.AddContainerRequest{Container: debug}); err != nil {
		t.Fatal(err)
	}
	is := func(reason string, kind gondola.ContainerKind) func(gondola.Machine) bool {
		return func(m gondola.Machine) bool {
			c := m.Gondola.Containers
			return len(c) == 2 && c[1].Name == "debug" && c[1].Ephemeral && c[1].State.Kind == kind && (reason == "" || c[1].State.Reason == reason)
		}
	}
	r.until(w, m.ID, "ErrImagePull", is("ErrImagePull", gondola.ContainerWaiting))
	r.until(w, m.ID, "ImagePullBackOff", is("ImagePullBackOff", gondola.ContainerWaiting))
	if got := r.until(w, m.ID, "the main container", func(gondola.Machine) bool { return true }); got.State != gondola.Started {
		t.Errorf("state = %s while an image cannot be had, want started", got.State)
	}
	stop() // what is recorded is gone on with
	w, _ = r.run()
	if _, err := r.host.ImportImage(t.Context(), strings.NewReader("tar"), "later/image"); err != nil {
		t.Fatal(err)
	}
	r.until(w, m.ID, "debug to run", is("", gondola.ContainerRunning))
	// In the Machine's directory stands what it runs: by that other workers of the host know which images are used.
	spec, err := pilot.ReadSpec(filepath.Join(r.dir, "host", "machines", string(m.ID)))
	if err != nil || len(spec.Containers) != 2 || spec.Containers[1].Tree == "" {
		t.Errorf("the spec has containers %+v, %v; want debug among them", spec.Containers, err)
	}
	if err := w.AddContainer(t.Context(), gondola.Ref{ID: m.ID}, gondola.AddContainerRequest{Container: gondola.Container{Name: "x", Image: "test/app",
		Gondola: &gondola.ContainerExtension{Target: "c"}}}); err == nil || !strings.Contains(err.Error(), "target") {
		t.Errorf("AddContainer with a target on a driver that has none = %v", err)
	}
}
