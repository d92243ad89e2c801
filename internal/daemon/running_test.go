package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// cluster is a platform whose cluster has started, and what it says.
func cluster(t *testing.T, merge func(path string, kubeconfig []byte, uid, gid int) (string, error)) (*platform, *strings.Builder) {
	t.Helper()
	var said strings.Builder
	c, err := Config{Data: t.TempDir()}.complete()
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(c.Data, "clusters", "main", "none"), "")
	p := &platform{Options: Options{Config: c, MergeKubeconfig: merge, Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}, log: slog.New(slog.DiscardHandler)}
	if err := p.writeKubeconfigs([]byte("first")); err != nil {
		t.Fatal(err)
	}
	p.next()
	return p, &said
}

func TestUp_SaysHowKubectlReachesTheCluster(t *testing.T) {
	t.Setenv("SUDO_USER", "")
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	for current, want := range map[string]string{"gondola-main": "  gondola kubectl get pods", "work": "  gondola kubectl --context gondola-main get pods"} {
		_, said := cluster(t, func(string, []byte, int, int) (string, error) { return current, nil })
		if !strings.Contains(said.String(), "kubectl is set up (context gondola-main") || !strings.Contains(said.String(), want) {
			t.Errorf("where %s is current, up says\n%s\nwant %q", current, said, want)
		}
	}
	p, said := cluster(t, func(string, []byte, int, int) (string, error) { return "", errors.New("the disk is full") })
	if strings.Contains(said.String(), "kubectl is set up") || !strings.Contains(said.String(), "the disk is full") || !strings.Contains(said.String(), "kubectl --kubeconfig "+p.cluster+" get pods") {
		t.Errorf("where no kubeconfig could be written, up says\n%s", said)
	}
}

func TestUp_WithoutAHomeInItsEnvironmentFindsTheUsersKubeconfig(t *testing.T) {
	u, err := user.LookupId(strconv.Itoa(os.Geteuid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"HOME", "KUBECONFIG", "SUDO_USER"} { // as systemd starts a service
		t.Setenv(name, "")
	}
	var merged []string
	_, said := cluster(t, func(path string, _ []byte, _, _ int) (string, error) {
		merged = append(merged, path)
		return "gondola-main", nil
	})
	if want := []string{filepath.Join(u.HomeDir, ".kube", "config")}; !slices.Equal(merged, want) {
		t.Errorf("merged into %v, want %v; up says\n%s", merged, want, said)
	}
}

func TestKubeconfigs_InTheHomeOfTheUserBehindSudoAreHis(t *testing.T) {
	u, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err) // Debian and Ubuntu have it
	}
	t.Setenv("SUDO_USER", u.Username)
	t.Setenv("HOME", "/root")
	his := func(name string) kubeconfigFile {
		return kubeconfigFile{filepath.Join(u.HomeDir, ".kube", name), id(u.Uid), id(u.Gid)}
	}
	for env, want := range map[string][]kubeconfigFile{
		"":                                {{"/root/.kube/config", -1, -1}, his("config")},
		his("work").path:                  {his("work"), his("config")},
		":" + his("work").path + ":/else": {his("work"), his("config")},
		his("config").path:                {his("config")},
		his("").path + "//config":         {his("config")},
		"/srv/kubeconfig":                 {{"/srv/kubeconfig", -1, -1}, his("config")},
	} {
		t.Setenv("KUBECONFIG", env)
		if got := kubeconfigFiles(); !slices.Equal(got, want) {
			t.Errorf("with KUBECONFIG=%s: %v, want %v", env, got, want)
		}
	}
}

func TestDown_TakesItsOwnClustersOutOfKubeconfigs(t *testing.T) {
	t.Setenv("SUDO_USER", "")
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	data := t.TempDir()
	var removed []string
	o := DownOptions{Config: Config{Data: data}, RemoveKubeconfig: func(path string, kubeconfig []byte) error {
		removed = append(removed, path+" "+string(kubeconfig))
		return nil
	}}
	if err := forgetClusters(o); err != nil || len(removed) > 0 {
		t.Errorf("an installation without a cluster removes %v (%v)", removed, err)
	}
	for _, cluster := range []string{"main", "older"} {
		put(t, filepath.Join(data, "clusters", cluster, "kubeconfig"), "of "+cluster)
	}
	path := os.Getenv("KUBECONFIG")
	if err := forgetClusters(o); err != nil || !slices.Equal(removed, []string{path + " of main", path + " of older"}) {
		t.Errorf("removed %q (%v), want those of both clusters", removed, err)
	}
}

func TestUp_RenewsKubeconfigsAndMergesNoneAgain(t *testing.T) {
	t.Setenv("SUDO_USER", "")
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	merged, renewed := 0, ""
	p, _ := cluster(t, func(string, []byte, int, int) (string, error) { merged++; return "gondola-main", nil })
	p.kubeconfig = func() ([]byte, error) { return []byte("second"), nil }
	p.RenewKubeconfig = func(path string, kubeconfig []byte) error { renewed += path + " " + string(kubeconfig); return nil }
	p.renewed()
	if want := os.Getenv("KUBECONFIG") + " second"; merged != 1 || renewed != want {
		t.Errorf("merged %d times, renewed %q; want 1 and %q", merged, renewed, want)
	}
	if b, err := os.ReadFile(p.cluster); err != nil || !bytes.Equal(b, []byte("second")) {
		t.Errorf("the data directory has %q (%v)", b, err)
	}
}
