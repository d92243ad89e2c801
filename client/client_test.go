package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/client"
	"gondola/internal/gondolatest"
)

// fake serves one answer to everything and remembers the last request.
func fake(t *testing.T, status int, body string) (c *client.Client, last func() *http.Request) {
	t.Helper()
	requests := make(chan *http.Request, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		r.Header.Set("Test-Body", string(b))
		requests <- r
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	c, err := client.New(client.Config{URL: s.URL, Token: "fm2_abc,fm2_def", UserAgent: "test/1"})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() *http.Request { return <-requests }
}

var ref = gondola.Ref{App: "shop", ID: "0123456789abcd"}

func TestErrors_OfFlysAPI(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		kind   error
		text   string
	}{
		{404, `{"error":"not_found: machine not found"}`, gondola.ErrNotFound, "machine not found"},
		{404, `{"error":"Could not find App \"shop\""}`, gondola.ErrNotFound, `Could not find App "shop"`},
		{408, `{"error":"deadline_exceeded: machine failed to reach desired state, started, currently created"}`, gondola.ErrDeadline, "machine failed to reach desired state, started, currently created"},
		{409, `{"error":"aborted: could not reserve resource for machine: insufficient memory available to fulfill request"}`, gondola.ErrCapacity, "could not reserve resource for machine: insufficient memory available to fulfill request"},
		{409, `{"status":"error","message":"machine ID X lease currently held by O","code":"invalid"}`, gondola.ErrConflict, "machine ID X lease currently held by O"},
		{412, `{"error":"failed_precondition: unable to start machine from current state: 'created'"}`, gondola.ErrPrecondition, "unable to start machine from current state: 'created'"},
		{422, `{"error":"no capacity in gru","status":"insufficient_capacity"}`, gondola.ErrCapacity, "no capacity in gru"},
		{422, `{"error":"Name has already been taken","status":"name_taken"}`, gondola.ErrNameTaken, "Name has already been taken"},
		{422, `{"error":"bad config","details":"a string, not an object"}`, gondola.ErrInvalid, "bad config"},
		{400, `{"error":"bad"}`, gondola.ErrInvalid, "bad"},
		{401, `{"error":"unauthorized"}`, gondola.ErrUnauthorized, "unauthorized"},
		{403, `{"error":"over quota"}`, gondola.ErrForbidden, "over quota"},
		{503, `<html>sorry</html>`, gondola.ErrUnavailable, "Service Unavailable <html>sorry</html>"},
	} {
		f, _ := fake(t, c.status, c.body)
		_, err := f.Get(t.Context(), ref)
		if !errors.Is(err, c.kind) || err.Error() != c.text {
			t.Errorf("%d %s: error = %v, want %q of kind %q", c.status, c.body, err, c.text, c.kind)
		}
	}
	f, _ := fake(t, 500, `{"error":"oops"}`)
	_, err := f.Get(t.Context(), ref)
	if e := (*gondola.Error)(nil); err == nil || errors.As(err, &e) || !strings.Contains(err.Error(), "oops") {
		t.Errorf("500 = %#v, want an error without a kind", err)
	}
}

func TestContractsBeyondFlys_AreUnsupportedWhereTheServerHasNone(t *testing.T) {
	c, _ := fake(t, 404, `{"error":"page not found"}`)
	ctx := t.Context()
	_, offered := c.Offered(ctx)
	_, watch := c.Watch(ctx, gondola.WatchRequest{})
	_, logs := c.Logs(ctx, ref, gondola.LogOptions{})
	_, exec := c.ExecStream(ctx, ref, gondola.ExecOptions{Command: []string{"true"}}, gondola.ExecIO{})
	_, attach := c.Attach(ctx, ref, "", gondola.ExecIO{})
	_, dial := c.Dial(ctx, ref, 80)
	_, ask := c.Ask(ctx, gondola.Ask{})
	_, images := c.ListImages(ctx)
	_, imported := c.ImportImage(ctx, strings.NewReader("x"), "")
	_, pruned := c.PruneImages(ctx)
	_, entrances := c.Entrances(ctx)
	for call, err := range map[string]error{"Offered": offered, "Watch": watch, "Logs": logs, "ExecStream": exec, "Attach": attach, "Dial": dial, "Ask": ask,
		"ListImages": images, "ImportImage": imported, "PruneImages": pruned,
		"PutPayload": c.PutPayload(ctx, ref, gondola.Payload{}), "AddContainer": c.AddContainer(ctx, ref, gondola.AddContainerRequest{}),
		"SetServices": c.SetServices(ctx, "default", nil), "Entrances": entrances} {
		if !errors.Is(err, gondola.ErrUnsupported) {
			t.Errorf("%s = %v, want unsupported", call, err)
		}
	}
	if _, err := c.Get(ctx, ref); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("Get = %v, want not found", err)
	}
}

func TestRequests_SpeakAsFlysAPIExpects(t *testing.T) {
	c, last := fake(t, 200, `{}`)
	timeout := gondola.Duration(10 * time.Second)
	for _, call := range []struct {
		do         func() error
		want, body string
	}{
		{func() error { return c.Destroy(t.Context(), ref, true) }, "DELETE /v1/apps/shop/machines/0123456789abcd?force=true&kill=true", ``},
		{func() error { return c.Signal(t.Context(), ref, "SIGKILL") }, "POST /v1/apps/shop/machines/0123456789abcd/signal", `{"signal":"SIGKILL"}`},
		{func() error { return c.Stop(t.Context(), ref, gondola.StopRequest{Timeout: &timeout}) }, "POST /v1/apps/shop/machines/0123456789abcd/stop", `{"timeout":"10s"}`},
		{func() error { return c.Restart(t.Context(), ref, gondola.RestartRequest{Timeout: &timeout}) }, "POST /v1/apps/shop/machines/0123456789abcd/restart?force_stop=false&timeout=10s", ``},
		{func() error {
			_, err := c.Wait(t.Context(), ref, gondola.WaitRequest{States: []gondola.State{"started", "stopped"}, Version: "v", Timeout: 5 * time.Second})
			return err
		}, "GET /v1/apps/shop/machines/0123456789abcd/wait?state=started&state=stopped&timeout=5&version=v", ``},
		{func() error { _, err := c.Get(t.Context(), gondola.Ref{App: "a/b", ID: "?"}); return err }, "GET /v1/apps/a%2Fb/machines/%3F", ``},
	} {
		if err := call.do(); err != nil {
			t.Fatal(err)
		}
		r := last()
		if got := r.Method + " " + r.RequestURI; got != call.want || r.Header.Get("Test-Body") != call.body {
			t.Errorf("request = %s %s, want %s %s", got, r.Header.Get("Test-Body"), call.want, call.body)
		}
		if r.Header.Get("Authorization") != "FlyV1 fm2_abc,fm2_def" || r.Header.Get("User-Agent") != "test/1" {
			t.Errorf("headers = %v", r.Header)
		}
	}
}

func TestErrors_OfTheConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody there now
	c, err := client.New(client.Config{URL: "http://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), ref); !errors.Is(err, gondola.ErrUnavailable) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Get from nobody = %v", err)
	}
	if _, err := c.Dial(t.Context(), ref, 80); !errors.Is(err, gondola.ErrUnavailable) {
		t.Errorf("Dial from nobody = %v", err)
	}
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	c, _ = client.New(client.Config{URL: slow.URL})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, ref); !errors.Is(err, gondola.ErrDeadline) {
		t.Errorf("Get from a slow server = %v", err)
	}
	for _, url := range []string{"", "127.0.0.1:4280", "ftp://x", "http://"} {
		if _, err := client.New(client.Config{URL: url}); !errors.Is(err, gondola.ErrInvalid) {
			t.Errorf("New(%q) = %v", url, err)
		}
	}
}

func TestWatch_EndsWhenTheServerGoes(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"worker":"gru","synced":true}`+"\n"+`{"worker":"gru","mach`)
	}))
	defer s.Close()
	c, _ := client.New(client.Config{URL: s.URL})
	changes, err := c.Watch(t.Context(), gondola.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if ch := <-changes; !ch.Synced || ch.Worker != "gru" {
		t.Errorf("change = %+v", ch)
	}
	if ch, open := <-changes; open {
		t.Errorf("a change that was cut came as %+v", ch)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"name":"here"}`) })}
	go s.Serve(l)
	defer s.Close()
	c, err := client.New(client.Config{URL: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := c.Get(t.Context(), ref); err != nil || m.Name != "here" {
		t.Errorf("Get = %+v, %v", m, err)
	}
}

func TestApps_OverHTTP(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	app, err := p.CreateApp(t.Context(), gondola.NewApp{Name: "shop", Network: "front"})
	if err != nil || app.Name != "shop" || app.Network != "front" || app.Organization.Slug != gondola.Org {
		t.Fatalf("CreateApp = %+v, %v", app, err)
	}
	if _, err := p.CreateApp(t.Context(), gondola.NewApp{Name: "shop"}); !errors.Is(err, gondola.ErrNameTaken) {
		t.Errorf("CreateApp again = %v", err)
	}
	if apps, err := p.ListApps(t.Context(), gondola.Org); err != nil || len(apps) != 1 {
		t.Errorf("ListApps = %+v, %v", apps, err)
	}
	if regions, err := p.Regions(t.Context()); err != nil || len(regions) != 1 || regions[0].Code != "local" {
		t.Errorf("Regions = %+v, %v", regions, err)
	}
	if got, err := p.Placements(t.Context(), gondola.PlacementsRequest{}); err != nil || len(got) != 1 || got[0].Count != 8 {
		t.Errorf("Placements = %+v, %v", got, err)
	}
	if err := p.DeleteApp(t.Context(), "shop"); err != nil {
		t.Errorf("DeleteApp = %v", err)
	}
	if _, err := p.App(t.Context(), "shop"); !errors.Is(err, gondola.ErrNotFound) || err.Error() != `Could not find App "shop"` {
		t.Errorf("App = %v", err)
	}
	if _, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Config: gondola.Config{Image: "test/app"}}); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("Create = %v", err)
	}
}

func TestNames_OfDotsMeanNothingAboveThem(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Config: gondola.Config{Image: "test/app"}, SkipLaunch: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{".", ".."} {
		if err := p.SetMetadataValue(t.Context(), m.Ref(), key, "v"); err != nil {
			t.Errorf("SetMetadataValue of %q = %v", key, err)
		}
		if v, err := p.MetadataValue(t.Context(), m.Ref(), key); err != nil || v != "v" {
			t.Errorf("MetadataValue of %q = %q, %v", key, v, err)
		}
		if err := p.DeleteMetadataValue(t.Context(), m.Ref(), key); err != nil {
			t.Errorf("DeleteMetadataValue of %q = %v", key, err)
		}
		if got, err := p.Get(t.Context(), m.Ref()); err != nil || got.State != gondola.Created || len(got.Config.Metadata) != 0 {
			t.Errorf("the machine without its metadata %q = %+v, %v", key, got, err)
		}
		if _, err := p.DeleteSecret(t.Context(), "shop", key); !errors.Is(err, gondola.ErrNotFound) {
			t.Errorf("DeleteSecret of %q = %v, want not found", key, err)
		}
		if _, err := p.App(t.Context(), "shop"); err != nil {
			t.Fatalf("the app after DeleteSecret of %q: %v", key, err)
		}
	}
}
