package gondolatest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/gondolatest"
)

// notebook is a log that many write to.
type notebook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notebook) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

func (n *notebook) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

// leaks says whether b has what nobody but the Machine may ever see, in plain or as JSON has bytes.
func leaks(b []byte) bool {
	for _, s := range []string{"hunter2-volume", "hunter2-env", "hunter2-registry", "hunter2-late", "hunter2-app", "hunter2-file", "hunter2-gone"} {
		if bytes.Contains(b, []byte(s)) || bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString([]byte(s)))) {
			return true
		}
	}
	return false
}

func TestSecrets_AreInNoFileAnswerWatchOrLog(t *testing.T) {
	var log notebook
	p := gondolatest.New(t, gondolatest.Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	p.NewApp("shop")
	file, gone := base64.StdEncoding.EncodeToString([]byte("hunter2-file")), "hunter2-gone"
	app := "hunter2-app"
	if _, err := p.UpdateSecrets(t.Context(), "shop", map[string]*string{"APP": &app, "FILE": &file, "GONE": &gone}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.DeleteSecret(t.Context(), "shop", "GONE"); err != nil {
		t.Fatal(err)
	}
	watched := watchRaw(t, p)
	m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Name: "vault", Config: gondola.Config{
		Volumes: []gondola.TempVolume{{Name: "keys"}},
		Containers: []gondola.Container{{Name: "main", Image: "test/app", Cmd: []string{"trap"}, Mounts: []gondola.ContainerMount{{Name: "keys", Path: "/keys"}},
			Secrets: []gondola.SecretRef{{EnvVar: "OF_APP", Name: "APP"}}, Files: []gondola.File{{GuestPath: "/etc/of-app", SecretName: "FILE"}},
			Gondola: &gondola.ContainerExtension{Env: []gondola.EnvVar{{Name: "PASSWORD", Secret: true}}}}},
	}, Gondola: &gondola.CreateExtension{Payload: &gondola.Payload{
		Volumes:     map[string][]gondola.PayloadFile{"keys": {{Path: "key", Data: []byte("hunter2-volume"), Mode: 0o400}}},
		Env:         map[string]map[string]string{"main": {"PASSWORD": "hunter2-env"}},
		Credentials: []gondola.RegistryCredential{{Registry: "test", Username: "u", Password: "hunter2-registry"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	ref := m.Ref()
	if _, err := p.Wait(t.Context(), ref, gondola.WaitRequest{Timeout: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	// They did arrive: or else this test finds nothing for the wrong reason.
	res, err := p.Exec(t.Context(), ref, gondola.ExecRequest{Command: []string{"/program", "read", "/keys/key", ";", "env", "PASSWORD", "OF_APP", ";", "read", "/etc/of-app"}})
	if err != nil || !strings.Contains(res.Stdout, "hunter2-app") || !strings.Contains(res.Stdout, "hunter2-file") || !strings.Contains(res.Stdout, "hunter2-volume") || !strings.Contains(res.Stdout, "hunter2-env") {
		t.Fatalf("the machine sees %+v, %v", res, err)
	}
	if err := p.PutPayload(t.Context(), ref, gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"keys": {{Path: "key", Data: []byte("hunter2-late"), Mode: 0o400}}}}); err != nil {
		t.Fatal(err)
	}
	post(t, p, "/v1/apps/shop/machines", `{"gondola":{"payload":{"env":{"main":{"A":"hunter2-env"}},"volumes":"hunter2-volume"}}}`, 400)
	post(t, p, "/v1/apps/shop/machines", `{"gondola":{"payload":{"env":{"main":{"A":"hunter2-env"`, 400)
	post(t, p, "/v1/apps/shop/secrets", `{"values":{"A":["hunter2-app"]}}`, 400)
	post(t, p, "/v1/apps/shop/secrets", `{"values":{"FLY_A":"hunter2-app"}}`, 400)
	post(t, p, "/v1/apps/shop/secrets/A-B", `{"value":"hunter2-app"}`, 400)
	post(t, p, "/v1/apps/shop/secrets/APP", `{"value":"hunter2-app"}`, 201)

	for _, path := range []string{"/v1/apps", "/v1/apps/shop", "/v1/apps/shop/machines", "/v1/apps/shop/machines?include_deleted=true", "/v1/orgs/personal/machines",
		"/v1/apps/shop/machines/" + string(m.ID), "/v1/apps/shop/machines/" + string(m.ID) + "/events", "/v1/apps/shop/machines/" + string(m.ID) + "/metadata",
		"/v1/apps/shop/machines/" + string(m.ID) + "/ps", "/v1/apps/shop/secrets", "/v1/apps/shop/secrets/APP", "/v1/apps/shop/machines/" + string(m.ID) + "/versions", "/v1/gondola", "/v1/gondola/images", "/v1/gondola/apps/shop/machines/" + string(m.ID) + "/logs"} {
		if b := get(t, p, path, 200); leaks(b) {
			t.Errorf("GET %s tells a secret: %s", path, b)
		}
	}
	if leaks(watched()) {
		t.Error("the watch tells a secret")
	}
	if leaks([]byte(log.String())) {
		t.Error("the log tells a secret")
	}
	if !strings.Contains(log.String(), "/v1/apps/shop/machines") {
		t.Error("the log is empty: this test reads the wrong one")
	}
	searchFiles(t, p.Dir)
}

// searchFiles reads every file of the platform but those of the Machine's tmpfs, which a fake host has on disk.
func searchFiles(t *testing.T, dir string) {
	t.Helper()
	databases := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() || strings.Contains(path, "/run/") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(filepath.Base(path), ".db") {
			databases++
		}
		if leaks(b) {
			t.Errorf("%s holds a secret", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if databases < 2 {
		t.Errorf("only %d database files were read", databases)
	}
}

// watchRaw begins to watch; the returned function ends that and tells every byte that came.
func watchRaw(t *testing.T, p *gondolatest.Platform) func() []byte {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", p.URL+"/v1/gondola/watch?offers=true", nil)
	req.Header.Set("Authorization", "Bearer "+p.Auth.Root())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	var all notebook
	done := make(chan struct{})
	go func() { defer close(done); defer resp.Body.Close(); io.Copy(&all, resp.Body) }()
	return func() []byte {
		cancel()
		<-done
		if !strings.Contains(all.String(), `"started"`) {
			t.Error("the watch did not see the machine start")
		}
		return []byte(all.String())
	}
}

func call(t *testing.T, p *gondolatest.Platform, method, path, body string, want int) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Auth.Root())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		t.Errorf("%s %s = %d %s, %v, want %d", method, path, resp.StatusCode, b, err, want)
	}
	return b
}

func get(t *testing.T, p *gondolatest.Platform, path string, want int) []byte {
	t.Helper()
	return call(t, p, "GET", path, "", want)
}

func post(t *testing.T, p *gondolatest.Platform, path, body string, want int) {
	t.Helper()
	if b := call(t, p, "POST", path, body, want); leaks(b) {
		t.Errorf("POST %s tells a secret: %s", path, b)
	}
}

func TestSecrets_GoWithTheirApp(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	if _, err := p.SetSecret(t.Context(), "shop", "TOKEN", "old"); err != nil {
		t.Fatal(err)
	}
	if err := p.DeleteApp(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	p.NewApp("shop")
	if list, err := p.ListSecrets(t.Context(), "shop", gondola.SecretsQuery{}); err != nil || len(list) != 0 {
		t.Errorf("an app of the same name has %v, %v", list, err)
	}
}

// TestSecrets_SurviveARestartOfTheWorkerWithoutTheServer starts a Machine again by its worker alone.
func TestSecrets_SurviveARestartOfTheWorkerWithoutTheServer(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	if _, err := p.SetSecret(t.Context(), "shop", "TOKEN", "kept"); err != nil {
		t.Fatal(err)
	}
	m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{SkipLaunch: true, Config: gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"trap"}}}})
	if err != nil {
		t.Fatal(err)
	}
	w := p.Workers[0]
	w.Stop()
	w.Start()
	if _, err := w.Worker.Start(t.Context(), m.Ref()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Wait(t.Context(), m.Ref(), gondola.WaitRequest{Timeout: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	res, err := w.Exec(t.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "env", "TOKEN"}})
	if err != nil || res.Stdout != "TOKEN=kept\n" {
		t.Errorf("the machine sees %+v, %v", res, err)
	}
}
