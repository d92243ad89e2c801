package worker_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/worker"
)

func TestPull_IsTriedAgainForPodsAndFailsTheLaunchOtherwise(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	ctx := t.Context()
	plain := r.create(w, gondola.CreateRequest{Config: gondola.Config{Image: "nowhere/none"}})
	if m := r.await(w, plain.ID, gondola.LaunchFailed); m.Gondola.Allocated != (gondola.Resources{}) || !strings.Contains(m.Gondola.Message, "nowhere/none") {
		t.Errorf("machine without image = %+v", m.Gondola)
	}
	pod := gondola.Config{Gondola: &gondola.ConfigExtension{RetryPull: true, RestartBackoff: "kubernetes"},
		Containers: []gondola.Container{{Name: "c", Image: "later/image", Cmd: []string{"trap"}, Entrypoint: []string{"/program"}}}}
	m := r.create(w, gondola.CreateRequest{Config: pod})
	waits := func(reason string) func(gondola.Machine) bool {
		return func(m gondola.Machine) bool { return m.Gondola.Containers[0].State.Reason == reason }
	}
	r.until(w, m.ID, "ErrImagePull", waits("ErrImagePull"))
	r.until(w, m.ID, "ImagePullBackOff", waits("ImagePullBackOff"))
	if _, err := r.host.ImportImage(ctx, strings.NewReader("tar"), "later/image"); err != nil {
		t.Fatal(err)
	}
	got := r.await(w, m.ID, gondola.Started)
	reasons := map[string]bool{}
	var last uint64
	for _, n := range got.Gondola.Notes {
		reasons[n.Reason] = true
		if n.Seq <= last {
			t.Errorf("note %+v does not grow", n)
		}
		last = n.Seq
	}
	for _, want := range []string{"Pulling", "Failed", "BackOff", "Pulled"} {
		if !reasons[want] {
			t.Errorf("notes %+v have no %s", got.Gondola.Notes, want)
		}
	}
	never := pod
	never.Containers = []gondola.Container{{Name: "c", Image: "not/here", Gondola: &gondola.ContainerExtension{PullPolicy: "never"}}, {Name: "d", Image: "Not A Name"}}
	m = r.create(w, gondola.CreateRequest{Config: never})
	r.until(w, m.ID, "both reasons", func(m gondola.Machine) bool {
		return m.Gondola.Containers[0].State.Reason == "ErrImageNeverPull" && m.Gondola.Containers[1].State.Reason == "InvalidImageName"
	})
	if err := w.Stop(ctx, m.Ref(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	r.await(w, m.ID, gondola.Stopped)
}

// private is a Host whose images want a password.
type private struct {
	worker.Host
	password string
}

func (p private) EnsureImage(ctx context.Context, reference, policy string, credentials []gondola.RegistryCredential) (worker.Image, error) {
	if !slices.ContainsFunc(credentials, func(c gondola.RegistryCredential) bool { return c.Password == p.password }) {
		return worker.Image{}, gondola.Errorf(gondola.ErrImage, "image %s: unauthorized", reference)
	}
	return p.Host.EnsureImage(ctx, reference, policy, credentials)
}

// A password that is put right later is used at the next try, and what comes with it reaches the containers.
func TestPull_TakesCredentialsThatComeLater(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	r.host = private{r.host, "right"}
	w, _ := r.run()
	payload := func(password string) gondola.Payload {
		return gondola.Payload{Credentials: []gondola.RegistryCredential{{Registry: "test", Username: "u", Password: password}},
			Env: map[string]map[string]string{"c": {"PASSWORD": password}}}
	}
	first := payload("wrong")
	m := r.create(w, gondola.CreateRequest{Gondola: &gondola.CreateExtension{Payload: &first}, Config: gondola.Config{
		Gondola: &gondola.ConfigExtension{RetryPull: true, RestartBackoff: "kubernetes"},
		Containers: []gondola.Container{{Name: "c", Image: "test/app", Cmd: []string{"env", "PASSWORD", ";", "trap"},
			Gondola: &gondola.ContainerExtension{Env: []gondola.EnvVar{{Name: "PASSWORD", Secret: true}}}}}}})
	r.until(w, m.ID, "ImagePullBackOff", func(m gondola.Machine) bool { return m.Gondola.Containers[0].State.Reason == "ImagePullBackOff" })
	if err := w.PutPayload(t.Context(), m.Ref(), payload("right")); err != nil {
		t.Fatal(err)
	}
	r.await(w, m.ID, gondola.Started)
	log, err := w.Logs(t.Context(), m.Ref(), gondola.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if b, err := io.ReadAll(log); err != nil || !strings.Contains(string(b), "right") || strings.Contains(string(b), "wrong") {
		t.Errorf("the container has %q, %v", b, err)
	}
}

func TestPull_OfAVolumesImageIsToldByWhoMountsIt(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	ctx := t.Context()
	program := func(name string, mounts ...gondola.ContainerMount) gondola.Container {
		return gondola.Container{Name: name, Image: "test/app", Cmd: []string{"trap"}, Mounts: mounts}
	}
	pod := gondola.Config{Gondola: &gondola.ConfigExtension{RetryPull: true, RestartBackoff: "kubernetes"}, Volumes: []gondola.TempVolume{{Name: "files", Image: "later/files"}},
		Containers: []gondola.Container{program("mounts", gondola.ContainerMount{Name: "files", Path: "/files"}), program("does-not")}}
	m := r.create(w, gondola.CreateRequest{Config: pod})
	m = r.until(w, m.ID, "ErrImagePull", func(m gondola.Machine) bool { return m.Gondola.Containers[0].State.Reason == "ErrImagePull" })
	if other := m.Gondola.Containers[1].State; other.Reason != "ContainerCreating" {
		t.Errorf("the container without the volume says %+v", other)
	}
	if _, err := r.host.ImportImage(ctx, strings.NewReader("tar"), "later/files"); err != nil {
		t.Fatal(err)
	}
	r.await(w, m.ID, gondola.Started)
	if _, err := w.PruneImages(ctx); err != nil {
		t.Fatal(err)
	}
	if !r.host.CachedImage("later/files") {
		t.Error("the image of a volume was pruned while a Machine mounts it")
	}
	for policy, want := range map[string]string{"never": "", "sometimes": "pull_policy"} {
		pod.Volumes = []gondola.TempVolume{{Name: "files", Image: "not/here", Gondola: &gondola.TempVolumeExtension{PullPolicy: policy}}}
		m, err := w.Create(ctx, app, gondola.CreateRequest{Config: pod})
		if want != "" {
			if !errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("Create with pull policy %s = %v, want ErrInvalid", policy, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r.until(w, m.ID, "ErrImageNeverPull", func(m gondola.Machine) bool { return m.Gondola.Containers[0].State.Reason == "ErrImageNeverPull" })
	}
}

func TestPrune_SparesWhatAnotherWorkerOfTheHostHasPulledForALaunch(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	program := func(name, image string) gondola.Container {
		return gondola.Container{Name: name, Image: image, Cmd: []string{"trap"}}
	}
	m := r.create(w, gondola.CreateRequest{Config: gondola.Config{Gondola: &gondola.ConfigExtension{RetryPull: true},
		Containers: []gondola.Container{program("here", "test/app"), program("not-yet", "later/app")}}})
	r.until(w, m.ID, "one image there and the other waited for", func(m gondola.Machine) bool {
		return m.Gondola.Containers[1].State.Reason == "ImagePullBackOff" && r.host.CachedImage("test/app")
	})
	r.change = func(c *worker.Config) { c.Name, c.Number, c.Dir = "w2", 2, filepath.Join(r.dir, "worker-2") }
	other := r.open()
	defer other.Close()
	for deadline := time.Now().Add(15 * time.Second); ; {
		_, err := other.PruneImages(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, gondola.ErrConflict) || time.Now().After(deadline) { // a pull is under way now and then
			t.Fatal(err)
		}
	}
	if !r.host.CachedImage("test/app") {
		t.Error("one worker has pruned the image that another has pulled for a Machine that is about to be started")
	}
	if _, err := r.host.ImportImage(t.Context(), strings.NewReader("tar"), "later/app"); err != nil {
		t.Fatal(err)
	}
	r.await(w, m.ID, gondola.Started)
}
