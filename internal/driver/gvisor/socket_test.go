package gvisor_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

func TestSocket_IsRootsAloneAndStaysSo(t *testing.T) {
	d := newDriver(t)
	main := pilot.Container{Name: "main", Args: []string{"/program", "run"}, Config: gondola.Container{Name: "main"}}
	nobody := pilot.Container{Name: "nobody", Args: main.Args, User: "1000:1000", Config: gondola.Container{Name: "nobody"}}
	spec := fixture(d).Spec(t, []pilot.Container{main, nobody}, nil)
	dir, err := os.MkdirTemp("", "api") // the path of a socket must not be long
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	spec.API = filepath.Join(dir, "api")
	l, err := net.Listen("unix", spec.API)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("here")) })}
	go s.Serve(l)
	defer s.Close()
	api := launch(t, d, spec)
	await(t, api, running)
	for _, c := range []struct {
		container string
		works     bool
		command   []string
	}{
		{"main", true, []string{"ask", "/.fly/api", "GET", "/"}},
		{"nobody", false, []string{"ask", "/.fly/api", "GET", "/"}},
		{"main", false, []string{"write", "/.fly/more", "x"}},
		{"main", false, []string{"serve-unix", "/.fly/own"}},
		{"main", false, []string{"serve-unix", "/.fly/api"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // what is refused ends at once
		var out bytes.Buffer
		st, err := api.Exec(ctx, gondola.ExecOptions{Container: c.container, Command: append([]string{"/program"}, c.command...)}, gondola.ExecIO{Stdout: &out, Stderr: &out})
		cancel()
		if err != nil || (st.Code == 0) != c.works {
			t.Errorf("%s: %q = %+v, %v, want that it works: %t\n%s", c.container, c.command, st, err, c.works, &out)
		}
	}
}
