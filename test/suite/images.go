package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"gondola/test/image"
)

// path is where programs of these images are looked for.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// shell is what scripts in agnhost run in. Debian's busybox has one too, but that runs its own programs instead of those in the PATH and
// drops variables whose names it could not set itself.
const shell = "/bin/bash-static"

// accounts are those that images of this kind have; agnhost has a user and a group of its own.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/sbin/nologin\ndaemon:x:2:2:daemon:/sbin:/sbin/nologin\n" +
		"mail:x:8:12:mail:/var/mail:/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"
	group = "root:x:0:root\nbin:x:1:\ndaemon:x:2:\ntty:x:5:\nmail:x:12:\nwww-data:x:33:\nnobody:x:65534:\n"
)

const nginxConf = `user www-data;
error_log /dev/stderr;
events {}
http {
	include mime.types;
	access_log /dev/stdout;
	server { listen 80; root /usr/share/nginx/html; }
}
`

// release is upstream's base of agnhost and of what is built on it, as far as it can be read in the image.
const release = "NAME=\"Alpine Linux\"\nID=alpine\nPRETTY_NAME=\"Alpine Linux\"\n"

// shelf makes the images that conformance specs use, of programs built from upstream's modules and of Debian packages.
type shelf struct {
	bin    string // our programs
	source string // folder of the module k8s.io/kubernetes
	made   map[string]v1.Image
	err    error
}

// imagesOf returns the images by their name in upstream's registries ("e2e-test-images/agnhost:2.63.0").
func imagesOf(bin, source string) (map[string]v1.Image, error) {
	s := &shelf{bin: bin, source: filepath.Join(source, "test", "images"), made: map[string]v1.Image{}}
	busybox := s.busybox()
	agnhost := []*image.Layer{s.tools(), s.agnhost()}
	agnhostConfig := v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{path}}
	pet := agnhostConfig
	pet.Cmd = []string{"test-webserver"}

	s.add("e2e-test-images/busybox:1.37.0-1", v1.Config{Cmd: []string{"sh"}, Env: []string{path}}, busybox)
	s.add("e2e-test-images/nonroot:1.5", v1.Config{Cmd: []string{"sh"}, Env: []string{path}, User: "1234"}, busybox)
	s.add("e2e-test-images/nonewprivs:1.4", v1.Config{Cmd: []string{"nnp"}, Env: []string{path}}, busybox,
		image.NewLayer().Copy("/usr/local/bin/nnp", 0o6755, filepath.Join(bin, "nnp")))
	s.add("e2e-test-images/agnhost:2.63.0", agnhostConfig, agnhost...)
	s.add("e2e-test-images/agnhost:2.55", agnhostConfig, append(agnhost, image.NewLayer().Text("/etc/agnhost-release", "2.55\n"))...)
	for _, p := range []string{"kitten", "nautilus"} {
		html := filepath.Join(s.source, p, "html")
		s.add("e2e-test-images/"+p+":1.8", pet, append(agnhost, image.NewLayer().
			Copy("/"+p+".jpg", 0o644, filepath.Join(html, p+".jpg")).Copy("/data.json", 0o644, filepath.Join(html, "data.json")))...)
	}
	nginx := image.NewLayer().Dirs("/var/log/nginx", "/var/lib/nginx", "/run", "/tmp").Paths("/usr/sbin/nginx", "/etc/nginx/mime.types").
		Text("/etc/nginx/nginx.conf", nginxConf).Text("/usr/share/nginx/html/index.html", "<title>Welcome to nginx!</title>\n")
	for _, tag := range []string{"1.15-4", "1.27-0"} {
		s.add("e2e-test-images/nginx:"+tag, v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, Env: []string{path}}, busybox, nginx,
			image.NewLayer().Text("/etc/nginx/release", tag+"\n"))
	}
	s.add("e2e-test-images/glibc-dns-testing:2.0.0", v1.Config{Cmd: []string{"bash"}, Env: []string{path}}, s.glibc())
	s.add("e2e-test-images/sample-apiserver:1.29.2", v1.Config{Entrypoint: []string{"/sample-apiserver"}, Env: []string{path}}, busybox,
		image.NewLayer().Copy("/sample-apiserver", 0o755, filepath.Join(bin, "sample-apiserver")))
	s.add("etcd:3.6.8-0", v1.Config{Cmd: []string{"etcd"}, Env: []string{path}}, busybox,
		image.NewLayer().Copy("/usr/local/bin/etcd", 0o755, filepath.Join(bin, "etcd")))
	s.add("pause:3.10.2", v1.Config{Entrypoint: []string{"/pause"}, Env: []string{path}, User: "65535:65535"},
		image.NewLayer().Copy("/pause", 0o755, filepath.Join(bin, "pause")))
	return s.made, s.err
}

func (s *shelf) add(name string, c v1.Config, layers ...*image.Layer) {
	if s.err != nil {
		return
	}
	var done []v1.Layer
	for _, l := range layers {
		layer, err := l.Done()
		if err != nil {
			s.err = fmt.Errorf("image %s: %w", name, err)
			return
		}
		done = append(done, layer)
	}
	img, err := image.Of(c, done...)
	if err != nil {
		s.err = fmt.Errorf("image %s: %w", name, err)
		return
	}
	s.made[name] = img
}

// busybox is a userland in one static program.
func (s *shelf) busybox() *image.Layer {
	l := image.NewLayer().Dirs("/tmp", "/var/tmp", "/run").Copy("/bin/busybox", 0o755, "/bin/busybox").
		Copy("/bin/sh", 0o755, filepath.Join(s.bin, "sh")).Copy("/bin/bash", 0o755, shell).Text("/etc/passwd", passwd).Text("/etc/group", group)
	return s.applets(l)
}

func (s *shelf) applets(l *image.Layer, not ...string) *image.Layer {
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("busybox --list: %w: install busybox-static", err)
	}
	for _, a := range strings.Fields(string(out)) {
		if a != "busybox" && !slices.Contains(not, a) {
			l.Link("/bin/"+a, "/bin/busybox")
		}
	}
	return l
}

// tools are what agnhost has beside itself.
func (s *shelf) tools() *image.Layer {
	l := image.NewLayer().Dirs("/tmp", "/var/tmp", "/run", "/uploads").Copy("/bin/busybox", 0o755, "/bin/busybox").Text("/etc/os-release", release).
		Text("/etc/passwd", passwd+"user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n").
		Text("/etc/group", group+"user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n").
		Copy("/bin/sh", 0o755, shell).Link("/bin/bash", "sh").Copy("/usr/bin/nc", 0o755, "/bin/nc.openbsd").
		Paths("/usr/bin/curl", "/usr/bin/dig", "/usr/bin/nslookup", "/usr/bin/getent", "/bin/nc.openbsd", "/usr/sbin/ip", "/etc/services")
	return s.applets(l, "nslookup", "nc", "ip")
}

func (s *shelf) agnhost() *image.Layer {
	porter := filepath.Join(s.source, "agnhost", "porter")
	return image.NewLayer().Copy("/agnhost", 0o755, filepath.Join(s.bin, "agnhost")).Link("/agnhost-2", "agnhost").
		Copy("/localhost.crt", 0o644, filepath.Join(porter, "localhost.crt")).Copy("/localhost.key", 0o644, filepath.Join(porter, "localhost.key"))
}

// glibc is a Debian with dnsutils, as far as scripts use it.
func (s *shelf) glibc() *image.Layer {
	l := image.NewLayer().Dirs("/tmp", "/var/tmp", "/run").Text("/etc/passwd", passwd).Text("/etc/group", group).Paths("/etc/services")
	for _, p := range []string{"sh", "bash", "cat", "ls", "echo", "sleep", "hostname", "mkdir", "rm", "sed", "grep", "test", "dig", "nslookup", "getent", "id", "head", "env", "seq", "tail", "true"} {
		at, err := exec.LookPath(p)
		if err != nil && s.err == nil {
			s.err = err
		}
		l.Paths(at)
	}
	return l.Link("/bin/sh", "/usr/bin/sh")
}

// push stores the images in a registry of this process.
func push(registry http.Handler, images map[string]v1.Image) error {
	for n, img := range images {
		ref, err := name.ParseReference(registryAddress + "/" + n)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, img, remote.WithTransport(direct{registry})); err != nil {
			return fmt.Errorf("push %s: %w", n, err)
		}
	}
	return nil
}

// direct carries requests to a handler without a network.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	d.handler.ServeHTTP(w, r)
	res := w.Result()
	res.Request = r
	return res, nil
}

// repositories is a KUBE_TEST_REPO_LIST: it has the suite take its images from a registry.
func repositories(registry string) string {
	return fmt.Sprintf(`promoterE2eRegistry: %[1]s/e2e-test-images
buildImageRegistry: %[1]s/build-image
gcEtcdRegistry: %[1]s
gcRegistry: %[1]s
sigStorageRegistry: %[1]s/sig-storage
privateRegistry: %[1]s/k8s-authenticated-test
invalidRegistry: invalid.registry.k8s.io/invalid
dockerLibraryRegistry: %[1]s/library
cloudProviderGcpRegistry: %[1]s/cloud-provider-gcp
`, registry)
}
