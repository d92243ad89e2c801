package drivertest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

const socket = "/.fly/api"

// withAPI returns a Spec whose Machine has the socket of the API. Nobody is behind it yet.
func withAPI(t *testing.T, f Fixture, containers ...pilot.Container) pilot.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // the path of a socket must not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	spec := f.Spec(t, containers, nil)
	spec.App, spec.API = "shop", filepath.Join(dir, "api")
	return spec
}

// daemon serves the API of a Spec until stop.
func daemon(t *testing.T, spec pilot.Spec, h http.HandlerFunc) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", spec.API)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return func() { s.Close() }
}

// tells answers with what came.
func tells(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s of %s by %q", r.Method, r.URL, strings.Join(r.Header.Values(gondola.MachineHeader), "+"), r.Header.Get("Authorization"))
}

// asks fails the test where the answer to an `ask` in a container is not as wanted.
func (m *machine) asks(container, want string, args ...string) {
	m.t.Helper()
	_, out := m.exec(container, append([]string{"ask", socket}, args...)...)
	if got := strings.TrimSpace(out); !strings.HasPrefix(got, want) {
		m.t.Errorf("ask %q = %q, want %q", args, got, want)
	}
}

// apiSocket: programs reach the daemon, under the name of their Machine and no other.
func apiSocket(t *testing.T, f Fixture) {
	spec := withAPI(t, f, container("main", "run"), container("beside", "run"))
	m := launchSpec(t, f, spec, nil)
	m.running("main")
	m.running("beside")
	defer daemon(t, spec, tells)()
	name := "shop/" + string(spec.Machine)
	for _, c := range []string{"main", "beside"} {
		m.asks(c, `200 POST /v1/x?y=z of `+name+` by ""`, "POST", "/v1/x?y=z")
	}
	other := gondola.MachineHeader + ": shop/another"
	m.asks("main", `200 GET / of `+name+` by ""`, "GET", "/", other, "Authorization: Bearer mine")
	m.asks("main", `200 GET / of `+name+` by ""`, "GET", "/", other, "Connection: "+gondola.MachineHeader) // by which a proxy is told to drop it
	m.asks("main", `413 {"details":{"kind":"invalid"},"error":"the body is larger than the 1048576 bytes`, "POST", "/", "Content-Length: 2000000")
	plain := launch(t, f, nil, container("main", "run"))
	plain.running("main")
	if st, out := plain.exec("main", "ask", socket, "GET", "/"); st.Code == 0 {
		t.Errorf("a machine without the socket has one: %s", out)
	}
}

// apiOutlives: while there is no daemon the answer says so; the next daemon is reached, and so it is by the next pilot.
func apiOutlives(t *testing.T, f Fixture) {
	spec := withAPI(t, f, container("main", "run"))
	m := launchSpec(t, f, spec, nil)
	m.running("main")
	const none = `503 {"details":{"kind":"unavailable"},"error":"the platform is not there`
	m.asks("main", none, "GET", "/")
	for range 2 {
		stop := daemon(t, spec, tells)
		m.asks("main", "200 GET / of ", "GET", "/")
		stop()
		m.asks("main", none, "GET", "/")
	}
	f.KillPilot(t, spec)
	m.launch(nil)
	m.running("main")
	defer daemon(t, spec, tells)()
	m.asks("main", "200 GET / of ", "GET", "/")
}

// suspendsItself: a program that has its own Machine suspended reads the answer, if not at once, and speaks to the daemon again when it runs on.
func suspendsItself(t *testing.T, f Fixture) {
	spec := withAPI(t, f, container("main", "asklate", socket, "POST", "/suspend", ";", "write", "/tmp/answered", "yes", ";", "run"))
	asked, begun := make(chan struct{}), make(chan struct{})
	defer daemon(t, spec, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/suspend" {
			close(asked)
			<-begun // as late as can be
		}
		tells(w, r)
	})()
	m := launchSpec(t, f, spec, nil)
	m.up()
	<-asked
	suspended := make(chan error, 1)
	go func() { suspended <- m.api.Suspend(t.Context()) }()
	m.await("the suspension to begin", func(s pilot.Status) bool { return s.Phase == pilot.Suspending })
	close(begun)
	if err := <-suspended; err != nil {
		t.Fatalf("Suspend = %v", err)
	}
	m.suspended()
	m.relaunch()
	if s := m.up(); !s.Resumed {
		t.Fatalf("not resumed: %s", show(s))
	}
	if st, out := m.exec("main", "await", "/tmp/answered"); st.Code != 0 {
		t.Fatalf("await = %+v %s", st, out)
	}
	m.asks("main", "200 GET / of ", "GET", "/")
}
