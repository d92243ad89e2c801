package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asGondola has this test binary be gondola.
const asGondola = "GONDOLA_TEST_AS_GONDOLA"

func TestMain(m *testing.M) {
	if os.Getenv(asGondola) != "" {
		main()
	}
	os.Exit(m.Run())
}

// kubeconfigOf writes the kubeconfig of an API server that answers every request with a word.
func kubeconfigOf(t *testing.T, word, path string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, word) }))
	t.Cleanup(s.Close)
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\n", s.URL)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKubectl_WithoutAKubeconfigReadsTheDataDirectorys(t *testing.T) {
	dir := t.TempDir()
	data, home := filepath.Join(dir, "data"), filepath.Join(dir, "home")
	kubectl := func(env string, args ...string) string {
		t.Helper()
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), exe, append([]string{"kubectl"}, args...)...)
		c.Env = []string{asGondola + "=1", "HOME=" + home, "GONDOLA_DATA=" + data, env}
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, bytes.TrimSpace(out))
		}
		return string(out)
	}
	get := []string{"get", "--raw", "/x"}
	kubeconfigOf(t, "ours", filepath.Join(data, "clusters", "main", "kubeconfig"))
	kubeconfigOf(t, "other", filepath.Join(dir, "other"))
	for env, want := range map[string]string{"": "ours", "KUBECONFIG=" + filepath.Join(dir, "other"): "other"} {
		if got := kubectl(env, get...); got != want {
			t.Errorf("with the environment %q: %s, want %s", env, got, want)
		}
	}
	if got := kubectl("", append(get, "--kubeconfig", filepath.Join(dir, "other"))...); got != "other" {
		t.Errorf("with --kubeconfig: %s, want other", got)
	}
	if got := kubectl("GONDOLA_DATA=", append(get, "--data", data)...); got != "ours" {
		t.Errorf("with --data: %s, want ours", got)
	}
	if got := kubectl("", "config", "set-context", "mine"); !strings.Contains(got, "created") {
		t.Errorf("kubectl config: %s", got)
	}
	if b, err := os.ReadFile(filepath.Join(home, ".kube", "config")); err != nil || !strings.Contains(string(b), "mine") {
		t.Errorf("kubectl config wrote %q (%v) into the user's file, want the new context", b, err)
	}
	kubeconfigOf(t, "mine", filepath.Join(home, ".kube", "config"))
	if got := kubectl("", get...); got != "mine" {
		t.Errorf("with ~/.kube/config: %s, want mine", got)
	}
	if err := os.Remove(filepath.Join(home, ".kube", "config")); err != nil {
		t.Fatal(err)
	}
	kubeconfigOf(t, "second", filepath.Join(data, "clusters", "second", "kubeconfig"))
	if got := kubectl("", get...); got == "ours" || got == "second" {
		t.Errorf("where two clusters are: %s, want none of them", got)
	}
}
