package kube_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"gondola/internal/kube"
)

const work = `apiVersion: v1
kind: Config
current-context: work
clusters:
- {name: work, cluster: {server: "https://work.example", certificate-authority: certs/ca.pem}}
users:
- {name: me, user: {token: secret}}
contexts:
- {name: work, context: {cluster: work, user: me, namespace: team}}
`

const ours = `apiVersion: v1
kind: Config
current-context: gondola-main
clusters:
- {name: gondola-main, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: b3Vycw==}}
users:
- {name: gondola-main, user: {token: ours}}
contexts:
- {name: gondola-main, context: {cluster: gondola-main, user: gondola-main}}
`

// use makes another context current, as `kubectl config use-context` does.
func use(t *testing.T, path, context string) {
	t.Helper()
	k, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k.CurrentContext = context
	if err := clientcmd.WriteToFile(*k, path); err != nil {
		t.Fatal(err)
	}
}

func TestMergeKubeconfig_KeepsWhatIsThereAndMakesOursCurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(work), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is harmless
		if current, err := kube.MergeKubeconfig(path, []byte(ours), -1, -1); err != nil || current != "gondola-main" {
			t.Fatalf("current = %q, %v, want ours, which is new there", current, err)
		}
	}
	k, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if k.CurrentContext != "gondola-main" || len(k.Contexts) != 2 || len(k.Clusters) != 2 || len(k.AuthInfos) != 2 {
		t.Errorf("contexts %v, current %q; want both, ours current", k.Contexts, k.CurrentContext)
	}
	if k.Contexts["work"].Namespace != "team" || k.AuthInfos["me"].Token != "secret" {
		t.Error("the other context has lost its namespace or token")
	}
	b, _ := os.ReadFile(path)
	if !strings.Contains(string(b), "certificate-authority: certs/ca.pem") {
		t.Errorf("the other cluster's relative path was changed:\n%s", b)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, want 0600", info.Mode())
	}

	if err := kube.RemoveFromKubeconfig(path, "gondola-main"); err != nil {
		t.Fatal(err)
	}
	k, _ = clientcmd.LoadFromFile(path)
	if len(k.Contexts) != 1 || len(k.Clusters) != 1 || len(k.AuthInfos) != 1 || k.CurrentContext != "" {
		t.Errorf("after removal: %d contexts, current %q; want the other one alone and none current", len(k.Contexts), k.CurrentContext)
	}
}

func TestMergeKubeconfig_LeavesTheContextThatTheUserHasChosenSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(work), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ chosen, want string }{{"work", "gondola-main"}, {"work", "work"}, {"", "gondola-main"}} {
		use(t, path, step.chosen)
		current, err := kube.MergeKubeconfig(path, []byte(ours), -1, -1)
		if err != nil {
			t.Fatal(err)
		}
		if k, err := clientcmd.LoadFromFile(path); err != nil || k.CurrentContext != step.want || current != step.want {
			t.Errorf("with %q chosen before, %q is current (%v, said %q), want %q", step.chosen, k.CurrentContext, err, current, step.want)
		}
	}
}

func TestMergeKubeconfig_DoesNotTouchAFileThatHasItAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	const kept = "# mine\n" + ours
	if err := os.WriteFile(path, []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.MergeKubeconfig(path, []byte(ours), -1, -1); err != nil {
		t.Fatal(err)
	}
	if err := kube.RenewKubeconfig(path, []byte(ours)); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != kept {
		t.Errorf("the file became\n%s", b)
	}
}

func TestRenewKubeconfig_RenewsWhatIsThereAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	renewed := []byte(strings.Replace(ours, "token: ours", "token: newer", 1))
	if err := kube.RenewKubeconfig(path, renewed); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a file was made (%v)", err)
	}
	if err := os.WriteFile(path, []byte(work), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := kube.RenewKubeconfig(path, renewed); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(path); string(b) != work {
		t.Errorf("a file without our context became\n%s", b)
	}
	if _, err := kube.MergeKubeconfig(path, []byte(ours), -1, -1); err != nil {
		t.Fatal(err)
	}
	for _, chosen := range []string{"work", ""} {
		use(t, path, chosen)
		if err := kube.RenewKubeconfig(path, renewed); err != nil {
			t.Fatal(err)
		}
		k, err := clientcmd.LoadFromFile(path)
		if err != nil || k.AuthInfos["gondola-main"].Token != "newer" || k.CurrentContext != chosen {
			t.Errorf("token %q, current %q (%v), want the newer one and %q", k.AuthInfos["gondola-main"].Token, k.CurrentContext, err, chosen)
		}
	}
	other := []byte(strings.Replace(ours, "b3Vycw==", "dGhlaXJz", 1))
	if err := kube.RenewKubeconfig(path, []byte(strings.Replace(string(other), "token: ours", "token: theirs", 1))); err != nil {
		t.Fatal(err)
	}
	if k, err := clientcmd.LoadFromFile(path); err != nil || k.AuthInfos["gondola-main"].Token != "newer" {
		t.Errorf("token %q (%v) after a renewal of another installation, want ours", k.AuthInfos["gondola-main"].Token, err)
	}
}

func TestMergeKubeconfig_MakesMissingDirectories(t *testing.T) {
	path := filepath.Join(t.TempDir(), "home", ".kube", "config")
	if _, err := kube.MergeKubeconfig(path, []byte(ours), os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	if _, err := clientcmd.LoadFromFile(path); err != nil {
		t.Error(err)
	}
}

func TestMergeKubeconfig_LeavesAFileThatItCannotReadAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte("{not yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.MergeKubeconfig(path, []byte(ours), -1, -1); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("merge into a broken file = %v, want an error that names it", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "{not yaml" {
		t.Errorf("the broken file became %q", b)
	}
}

func TestRemoveFromKubeconfig_OfWhatIsNotThereIsNoError(t *testing.T) {
	if err := kube.RemoveFromKubeconfig(filepath.Join(t.TempDir(), "none"), "gondola-main"); err != nil {
		t.Error(err)
	}
}
