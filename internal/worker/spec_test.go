package worker

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

func input(c gondola.Config, img Image) specInput {
	in := specInput{machine: "00000000000001", app: "shop", version: "V1", region: "fra", instance: "i", config: &c, images: images{},
		prepared: Prepared{Dir: "/d", RunDir: "/r", Addresses: []netip.Addr{netip.MustParseAddr("10.64.16.1"), netip.MustParseAddr("fdaa::1")}},
		dns:      gondola.DNSConfig{Nameservers: []string{"10.64.0.1"}, Searches: []string{"internal"}}}
	for _, k := range c.AllContainers() {
		in.images[keyOf(k, k.Image)] = img
	}
	return in
}

func TestBuildSpec_ArgsFollowTheRulesOfOCI(t *testing.T) {
	img := Image{Entrypoint: []string{"/entry", "-e"}, Cmd: []string{"cmd"}}
	for _, row := range []struct {
		name string
		init gondola.Init
		img  Image
		want []string
	}{
		{"image alone", gondola.Init{}, img, []string{"/entry", "-e", "cmd"}},
		{"cmd replaces cmd", gondola.Init{Cmd: []string{"a", "b"}}, img, []string{"/entry", "-e", "a", "b"}},
		{"entrypoint replaces both", gondola.Init{Entrypoint: []string{"/x"}}, img, []string{"/x"}},
		{"entrypoint and cmd", gondola.Init{Entrypoint: []string{"/x"}, Cmd: []string{"y"}}, img, []string{"/x", "y"}},
		{"exec replaces all", gondola.Init{Exec: []string{"/z"}, Cmd: []string{"y"}}, img, []string{"/z"}},
		{"image with cmd only", gondola.Init{}, Image{Cmd: []string{"sh"}}, []string{"sh"}},
	} {
		s, err := buildSpec(input(gondola.Config{Image: "x", Init: row.init}, row.img))
		if err != nil || !slices.Equal(s.Containers[0].Args, row.want) {
			t.Errorf("%s: args %q, %v, want %q", row.name, s.Containers[0].Args, err, row.want)
		}
	}
	if _, err := buildSpec(input(gondola.Config{Image: "x"}, Image{})); !errors.Is(err, gondola.ErrImage) {
		t.Errorf("nothing to run: %v, want ErrImage", err)
	}
}

func TestBuildSpec_Environment(t *testing.T) {
	img := Image{Cmd: []string{"c"}, Env: []string{"PATH=/bin", "A=image", "B=image"}, WorkingDir: "/w", User: "app", StopSignal: "SIGQUIT"}
	plain, err := buildSpec(input(gondola.Config{Image: "reg/x", Env: map[string]string{"B": "config", "FLY_REGION": "mine"}}, img))
	if err != nil {
		t.Fatal(err)
	}
	k := plain.Containers[0]
	for _, want := range []string{"PATH=/bin", "A=image", "B=config", "FLY_APP_NAME=shop", "FLY_MACHINE_ID=00000000000001", "FLY_REGION=mine",
		"FLY_PRIVATE_IP=fdaa::1", "FLY_IMAGE_REF=reg/x", "FLY_MACHINE_VERSION=V1", "FLY_VM_MEMORY_MB=256", "HOSTNAME=00000000000001"} {
		if !slices.Contains(k.Env, want) {
			t.Errorf("env %q has no %s", k.Env, want)
		}
	}
	if k.WorkingDir != "/w" || k.User != "app" || k.Config.Stop == nil || *k.Config.Stop.Signal != "SIGQUIT" {
		t.Errorf("container = %+v, want the image's directory, user and stop signal", k)
	}
	pod := gondola.Config{Gondola: &gondola.ConfigExtension{RestartBackoff: "kubernetes", Hosts: []gondola.HostAlias{{IP: "1.2.3.4", Names: []string{"a", "b"}}}},
		DNS:     &gondola.DNSConfig{Hostname: "web-0", HostnameFQDN: "web-0.web.ns.svc.cluster.local", Nameservers: []string{"10.43.0.10"}, Searches: []string{"ns.svc.cluster.local"}, Options: []gondola.DNSOption{{Name: "ndots", Value: "5"}}},
		Volumes: []gondola.TempVolume{{Name: "disk", TempDir: &gondola.TempDir{}}, {Name: "mem", TempDir: &gondola.TempDir{StorageType: "memory", SizeMB: 5}}, {Name: "secret"}},
		Containers: []gondola.Container{{Name: "c", Image: "x", User: "7:8", EnvFrom: []gondola.EnvFrom{{EnvVar: "IP", FieldRef: "private_ip"}},
			Gondola: &gondola.ContainerExtension{WorkingDir: "/k"}}}}
	s, err := buildSpec(input(pod, Image{Cmd: []string{"c"}, WorkingDir: "/w", User: "app"}))
	if err != nil {
		t.Fatal(err)
	}
	k = s.Containers[0]
	if i := slices.IndexFunc(k.Env, func(e string) bool { return strings.HasPrefix(e, "FLY_") }); i >= 0 {
		t.Errorf("a Pod has %s", k.Env[i])
	}
	if !slices.Contains(k.Env, "IP=fdaa::1") || !slices.Contains(k.Env, "HOSTNAME=web-0") || k.User != "7:8" || k.WorkingDir != "/k" || k.Config.Stop != nil {
		t.Errorf("pod's container = %+v", k)
	}
	if want := "search ns.svc.cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n"; s.Resolv != want {
		t.Errorf("resolv.conf = %q, want %q", s.Resolv, want)
	}
	for _, want := range []string{"# Kubernetes-managed hosts file.\n", "10.64.16.1\tweb-0.web.ns.svc.cluster.local\tweb-0\n", "1.2.3.4\ta\tb\n"} {
		if !strings.Contains(s.Hosts, want) {
			t.Errorf("hosts = %q has no %q", s.Hosts, want)
		}
	}
	want := []pilot.Volume{{Name: "disk", Kind: pilot.VolumeDisk}, {Name: "mem", Kind: pilot.VolumeMemory, SizeMB: 5}, {Name: "secret", Kind: pilot.VolumePayload}}
	if !slices.Equal(s.Volumes, want) {
		t.Errorf("volumes = %+v, want %+v", s.Volumes, want)
	}
	if want := "search internal\nnameserver 10.64.0.1\n"; plain.Resolv != want {
		t.Errorf("resolv.conf of a plain machine = %q, want %q", plain.Resolv, want)
	}
	if !strings.Contains(plain.Hosts, "fdaa::1\tfly-local-6pn\n") {
		t.Errorf("hosts of a plain machine = %q, want fly-local-6pn in it", plain.Hosts)
	}
}

func TestParseImage(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, row := range []struct {
		in   string
		want gondola.ImageRef
		ok   bool
	}{
		{"nginx", gondola.ImageRef{Registry: "docker.io", Repository: "library/nginx", Tag: "latest"}, true},
		{"a/b:1", gondola.ImageRef{Registry: "docker.io", Repository: "a/b", Tag: "1"}, true},
		{"reg.io:5000/a/b@" + digest, gondola.ImageRef{Registry: "reg.io:5000", Repository: "a/b", Digest: digest}, true},
		{"localhost/x:y", gondola.ImageRef{Registry: "localhost", Repository: "x", Tag: "y"}, true},
		{"127.0.0.1:5000/x", gondola.ImageRef{Registry: "127.0.0.1:5000", Repository: "x", Tag: "latest"}, true},
		{"gondola.local/hello", gondola.ImageRef{Registry: "gondola.local", Repository: "hello", Tag: "latest"}, true},
		{"Not A Name", gondola.ImageRef{}, false},
		{"UPPER", gondola.ImageRef{}, false},
		{"x@sha256:12", gondola.ImageRef{}, false},
	} {
		got, ok := parseImage(row.in)
		if ok != row.ok || ok && (got.Registry != row.want.Registry || got.Repository != row.want.Repository || got.Tag != row.want.Tag || got.Digest != row.want.Digest) {
			t.Errorf("parseImage(%q) = %+v, %v, want %+v, %v", row.in, got, ok, row.want, row.ok)
		}
	}
}

func TestOOMScore_RanksWhoGoesFirst(t *testing.T) {
	const mb = 1 << 20
	score := func(request, limit int64) int {
		return oomScore(gondola.Resources{CPUMillis: 100, MemoryBytes: request}, gondola.Resources{MemoryBytes: limit}, 1000*mb)
	}
	nothing, little, much, capped := oomScore(gondola.Overhead, gondola.Resources{}, 1000*mb), score(10*mb, 0), score(600*mb, 900*mb), score(600*mb, 600*mb)
	if nothing != 1000 || nothing <= little || little <= much || much <= capped || capped < 1 {
		t.Errorf("scores: asks for nothing %d, for little %d, for much %d, cannot take more than it asked for %d; want them to fall, from 1000 to 1 or more",
			nothing, little, much, capped)
	}
}
