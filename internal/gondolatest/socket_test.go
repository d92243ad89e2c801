package gondolatest_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/auth"
	"gondola/internal/gondolatest"
)

// inside is a platform whose Machines have the socket of the API.
type inside struct {
	*gondolatest.Platform
	t *testing.T
}

func newInside(t *testing.T) *inside {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // the path of a socket must not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	api := filepath.Join(dir, "api")
	p := &inside{gondolatest.New(t, gondolatest.Options{API: api}), t}
	p.NewApp("shop")
	l, err := net.Listen("unix", api)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: auth.FromMachines(p.Handler)}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return p
}

// started creates a Machine and waits until it runs.
func (p *inside) started(config gondola.Config) gondola.Machine {
	p.t.Helper()
	config.Image = "test/app"
	m, err := p.Create(p.t.Context(), "shop", gondola.CreateRequest{Config: config})
	if err != nil {
		p.t.Fatal(err)
	}
	p.wait(m, gondola.Started)
	return m
}

func (p *inside) wait(m gondola.Machine, state gondola.State) {
	p.t.Helper()
	if _, err := p.Wait(p.t.Context(), m.Ref(), gondola.WaitRequest{States: []gondola.State{state}, Timeout: 20 * time.Second}); err != nil {
		p.t.Fatal(err)
	}
}

// asks is what a program in m gets for a request.
func (p *inside) asks(m gondola.Machine, method, path string) string {
	p.t.Helper()
	got, err := p.Exec(p.t.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "ask", "/.fly/api", method, path}})
	if err != nil {
		p.t.Fatal(err)
	}
	return got.Stdout + got.Stderr
}

func machinePath(m gondola.Machine) string { return "/v1/apps/shop/machines/" + string(m.ID) }

func TestSocket_IsForItselfAlone(t *testing.T) {
	p := newInside(t)
	m, other := p.started(gondola.Config{}), p.started(gondola.Config{})
	for _, c := range []struct{ method, path, want string }{
		{"GET", machinePath(m), `200 {"id":"` + string(m.ID)},
		{"GET", machinePath(m) + "/metadata", "200 {"},
		{"GET", machinePath(m) + "/wait?state=started", "200 {"},
		{"GET", machinePath(other), "403 "},
		{"POST", machinePath(other) + "/stop", "403 "},
		{"GET", "/v1/apps/shop/machines", "403 "},
		{"POST", "/v1/apps/shop/machines", "403 "},
		{"DELETE", machinePath(m), "403 "},
		{"POST", "/v1/gondola/tokens", "403 "},
		{"GET", "/metrics", "404 "},
	} {
		if got := p.asks(m, c.method, c.path); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %s = %.200q, want %q", c.method, c.path, got, c.want)
		}
	}
	pod := p.started(gondola.Config{Gondola: &gondola.ConfigExtension{RestartBackoff: "kubernetes"}})
	if got := p.asks(pod, "GET", "/"); !strings.HasPrefix(got, "program: dial unix") {
		t.Errorf("a Pod has the socket: %q", got)
	}
}

func TestSocket_AfterASuspension(t *testing.T) {
	p := newInside(t)
	m := p.started(gondola.Config{Init: gondola.Init{Exec: []string{"/program", "run"}}})
	if got := p.asks(m, "POST", machinePath(m)+"/suspend"); !strings.HasPrefix(got, "200 ") {
		t.Fatalf("suspend = %q", got)
	}
	p.wait(m, gondola.Suspended)
	if _, err := p.Start(t.Context(), m.Ref()); err != nil {
		t.Fatal(err)
	}
	p.wait(m, gondola.Started)
	p.Workers[0].Stop()
	p.Workers[0].Start()
	if got := p.asks(m, "GET", machinePath(m)); !strings.HasPrefix(got, "200 ") {
		t.Errorf("GET of itself after suspend and a restart of the worker = %q", got)
	}
}

func TestSocket_HasSixteenConnections(t *testing.T) {
	p := newInside(t)
	m := p.started(gondola.Config{})
	dir, err := os.Open(filepath.Join(p.Dir, "worker", "local", "host", "run", string(m.ID), "fly"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	connect := func() net.Conn {
		c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/api", dir.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	answered := func(c net.Conn, within time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(within))
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	}
	var all []net.Conn
	for range 17 {
		c := connect()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: any\r\n\r\n", machinePath(m))
		all = append(all, c)
	}
	last := all[16]
	for i, c := range all[:16] {
		if !answered(c, 20*time.Second) {
			t.Fatalf("connection %d is not answered", i)
		}
	}
	if answered(last, 200*time.Millisecond) {
		t.Error("the seventeenth connection is answered while sixteen are open")
	}
	all[0].Close()
	if !answered(last, 20*time.Second) {
		t.Error("the seventeenth connection is not answered when another has ended")
	}
}
