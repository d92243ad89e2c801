package kube_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	if err := kube.RemoveFromKubeconfig(path, []byte(ours)); err != nil {
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

// owned fails the test unless a path has this mode and is of this user and group.
func owned(t *testing.T, path string, mode os.FileMode, uid, gid int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != mode || int(st.Uid) != uid || int(st.Gid) != gid {
		t.Errorf("%s is %v %d:%d, want %v %d:%d", path, info.Mode(), st.Uid, st.Gid, mode, uid, gid)
	}
}

func TestMergeKubeconfig_MakesMissingDirectoriesAndItsFilePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "home", ".kube", "config")
	if _, err := kube.MergeKubeconfig(path, []byte(ours), os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	if _, err := clientcmd.LoadFromFile(path); err != nil {
		t.Error(err)
	}
	owned(t, path, 0o600, os.Getuid(), os.Getgid())
	owned(t, filepath.Dir(path), 0o700, os.Getuid(), os.Getgid())
}

func TestMergeKubeconfig_ByRootTakesNoFileFromItsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to other users")
	}
	home := filepath.Join(t.TempDir(), "home")
	theirs := filepath.Join(home, "work")
	if err := errors.Join(os.Mkdir(home, 0o755), os.Chown(home, 1234, 1235), os.WriteFile(theirs, []byte(work), 0o600), os.Chmod(theirs, 0o640), os.Chown(theirs, 1236, 1237)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		uid, gid int
	}{{"work", -1, -1}, {"work", 0, 0}, {"new/config", -1, -1}, {"given/config", 1238, 1239}} {
		if _, err := kube.MergeKubeconfig(filepath.Join(home, c.name), []byte(strings.Replace(ours, "token: ours", "token: "+c.name, 1)), c.uid, c.gid); err != nil {
			t.Fatal(err)
		}
	}
	owned(t, theirs, 0o640, 1236, 1237)
	owned(t, home, 0o755, 1234, 1235)
	for dir, id := range map[string]int{"new": 1234, "given": 1238} {
		owned(t, filepath.Join(home, dir), 0o700, id, id+1)
		owned(t, filepath.Join(home, dir, "config"), 0o600, id, id+1)
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

func TestRemoveFromKubeconfig_LeavesTheContextOfAnotherInstallation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(ours), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{strings.Replace(ours, "b3Vycw==", "dGhlaXJz", 1), strings.Replace(ours, "10.0.0.1:6443", "10.0.0.1:7443", 1)} {
		if err := kube.RemoveFromKubeconfig(path, []byte(other)); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(path); string(b) != ours {
			t.Errorf("after the end of an installation with the same name for its cluster, the file has\n%s", b)
		}
	}
	if err := kube.RemoveFromKubeconfig(path, []byte(ours)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a file with nothing left in it stays (%v)", err)
	}
}

func TestRemoveFromKubeconfig_OfWhatIsNotThereIsNoError(t *testing.T) {
	if err := kube.RemoveFromKubeconfig(filepath.Join(t.TempDir(), "none"), []byte(ours)); err != nil {
		t.Error(err)
	}
}
