package drivertest

import (
	"encoding/base64"
	"os"
	"path/filepath"
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

func appSecrets(t *testing.T, f Fixture) {
	c := container("main", "env", "TOKEN", "AS", ";", "read", "/etc/made/key", ";", "run")
	c.Env, c.AppSecrets = append(c.Env, "TOKEN=of the image"), true
	c.Config.Secrets = []gondola.SecretRef{{EnvVar: "AS", Name: "TOKEN"}}
	c.Config.Files = []gondola.File{{GuestPath: "/etc/made/key", SecretName: "KEY", Mode: 0o400}}
	m := launchSpec(t, f, f.Spec(t, []pilot.Container{c}, nil), &gondola.Payload{Secrets: map[string]string{"TOKEN": "s3cret", "KEY": base64.StdEncoding.EncodeToString([]byte("of a file"))}})
	m.awaitLog("main", "TOKEN=s3cret\nAS=s3cret\nof a file")
	if st, out := m.exec("main", "env", "TOKEN"); st.Code != 0 || out != "TOKEN=s3cret\n" {
		t.Errorf("an exec sees %q, %+v", out, st)
	}
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

func imageVolume(t *testing.T, f Fixture) {
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "etc", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "etc", "deep", "file"), []byte("of an image"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := mount(container("main", "read", "/image/etc/deep/file", ";", "run"), "i", "/image")
	c.Config.Mounts = append(c.Config.Mounts, gondola.ContainerMount{Name: "i", Path: "/part", Gondola: &gondola.MountExtension{SubPath: "etc/deep"}})
	m := launch(t, f, []pilot.Volume{{Name: "i", Kind: pilot.VolumeImage, Source: tree}}, c)
	m.awaitLog("main", "of an image")
	if _, out := m.exec("main", "read", "/part/file"); out != "of an image" {
		t.Errorf("a part of the image = %q", out)
	}
	if f.Driver.Name() == "fake" {
		return
	}
	for _, path := range []string{"/image/etc/deep/file", "/image/new", "/part/new"} {
		if st, _ := m.exec("main", "write", path, "x"); st.Code == 0 {
			t.Errorf("%s of an image could be written to", path)
		}
	}
	if err := m.driver.Kill(t.Context(), m.spec); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadFile(filepath.Join(tree, "etc", "deep", "file")); err != nil || string(left) != "of an image" {
		t.Errorf("the image is not as it was after the Machine: %q, %v", left, err)
	}
}
