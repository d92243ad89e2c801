package drivertest

import (
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

func mount(c pilot.Container, name, path string) pilot.Container {
	c.Config.Mounts = append(c.Config.Mounts, gondola.ContainerMount{Name: name, Path: path})
	return c
}

func payloadOf(text string) *gondola.Payload {
	return &gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"secret": {
		{Path: "token", Data: []byte(text), Mode: 0o644}, {Path: "deep/file", Data: []byte("deep " + text), Mode: 0o600}}}}
}

func payloadRefresh(t *testing.T, f Fixture) {
	spec := f.Spec(t, []pilot.Container{mount(container("main", "watch", "/secret/token"), "secret", "/secret")},
		[]pilot.Volume{{Name: "secret", Kind: pilot.VolumePayload}})
	m := launchSpec(t, f, spec, payloadOf("first"))
	m.awaitLog("main", "first")
	if err := m.api.PutPayload(t.Context(), *payloadOf("second")); err != nil {
		t.Fatalf("PutPayload = %v", err)
	}
	m.awaitLog("main", "second")
	if _, out := m.exec("main", "read", "/secret/deep/file"); out != "deep second" {
		t.Errorf("deep file = %q", out)
	}
	if st, _ := m.exec("main", "write", "/secret/token", "x"); st.Code == 0 && f.Driver.Name() != "fake" {
		t.Error("a payload volume could be written to")
	}
}

func payloadEnv(t *testing.T, f Fixture) {
	c := container("main", "env", "TOKEN", ";", "run")
	ext(&c).Env = []gondola.EnvVar{{Name: "TOKEN", Secret: true}}
	spec := f.Spec(t, []pilot.Container{c}, nil)
	m := launchSpec(t, f, spec, &gondola.Payload{Env: map[string]map[string]string{"main": {"TOKEN": "s3cret"}}})
	m.awaitLog("main", "TOKEN=s3cret\n")
}

func sharedVolume(t *testing.T, f Fixture) {
	for _, kind := range []pilot.VolumeKind{pilot.VolumeDisk, pilot.VolumeMemory} {
		t.Run(string(kind), func(t *testing.T) {
			m := launch(t, f, []pilot.Volume{{Name: "v", Kind: kind}},
				mount(container("writer", "write", "/a/file", "shared", ";", "run"), "v", "/a"),
				mount(container("reader", "await", "/b/file", ";", "sleep", "100ms", ";", "read", "/b/file", ";", "print", "", ";", "run"), "v", "/b"))
			m.awaitLog("reader", "shared\n")
		})
	}
}

func sharedSocket(t *testing.T, f Fixture) {
	m := launch(t, f, []pilot.Volume{{Name: "v", Kind: pilot.VolumeMemory}},
		mount(container("server", "serve-unix", "/a/s"), "v", "/a"),
		mount(container("client", "dial-unix", "/b/s", "neighbour", ";", "run"), "v", "/b"))
	m.awaitLog("client", "hello neighbour\n")
}

func subPath(t *testing.T, f Fixture) {
	c := mount(container("main", "write", "/sub/file", "in sub", ";", "read", "/all/inner/dir/file"), "v", "/all")
	c.Config.Mounts = append(c.Config.Mounts, gondola.ContainerMount{Name: "v", Path: "/sub", Gondola: &gondola.MountExtension{SubPath: "inner/dir"}})
	m := launch(t, f, []pilot.Volume{{Name: "v", Kind: pilot.VolumeDisk}}, c)
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); log != "in sub" {
		t.Errorf("log = %q, want what was written through the sub-path", log)
	}
}
