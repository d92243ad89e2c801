package gondola_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the whole house: a package (folder) → which packages of this module it may import. The root is "gondola". Tests may also import
// gondolatest and the drivertest suite. A new package starts with a page in docs/rfd and a line here.
var mayImport = map[string][]string{
	".":                                      {},
	"client":                                 {"gondola", "internal/stream"},
	"cmd/gondola":                            {"gondola", "internal/cli", "internal/daemon", "internal/kube", "internal/kube/kubectl"},
	"cmd/gondola-pilot":                      {"internal/driver", "internal/driver/cgroup", "internal/driver/gvisor/runsc", "internal/driver/runc/sandbox", "internal/pilot"},
	"cmd/gondola-hello":                      {},
	"internal/api":                           {"gondola", "internal/auth", "internal/stream"},
	"internal/auth":                          {"gondola"},
	"internal/cli":                           {"gondola", "client", "internal/auth"}, // a token is attenuated without asking anybody
	"internal/daemon":                        {"gondola", "client", "internal/api", "internal/auth", "internal/driver", "internal/driver/fake", "internal/driver/gvisor", "internal/driver/runc", "internal/durable", "internal/host", "internal/image", "internal/market", "internal/network", "internal/seal", "internal/store", "internal/worker"},
	"internal/driver":                        {"gondola", "internal/driver/cgroup", "internal/failpoint", "internal/pilot"},
	"internal/driver/cgroup":                 {},
	"internal/driver/drivertest":             {"gondola", "internal/driver", "internal/driver/drivertest/program", "internal/pilot"},
	"internal/driver/drivertest/program":     {"gondola"},
	"internal/driver/drivertest/program/cmd": {"gondola", "internal/driver/drivertest/program"},
	"internal/driver/fake":                   {"gondola", "internal/driver", "internal/driver/drivertest/program", "internal/pilot", "internal/worker"},
	"internal/driver/gvisor":                 {"gondola", "internal/driver", "internal/pilot"},
	"internal/driver/gvisor/runsc":           {"gondola", "internal/driver", "internal/driver/cgroup", "internal/driver/oci", "internal/failpoint", "internal/pilot"},
	"internal/driver/oci":                    {"gondola", "internal/driver", "internal/driver/cgroup", "internal/failpoint", "internal/pilot"},
	"internal/driver/runc":                   {"gondola", "internal/driver"},
	"internal/driver/runc/sandbox":           {"gondola", "internal/driver", "internal/driver/cgroup", "internal/driver/oci", "internal/failpoint", "internal/pilot"},
	"internal/durable":                       {},
	"internal/failpoint":                     {},
	"internal/gondolatest":                   {"gondola", "client", "internal/api", "internal/auth", "internal/driver", "internal/driver/fake", "internal/market", "internal/seal", "internal/store", "internal/worker"},
	"internal/host":                          {"gondola", "internal/driver", "internal/driver/cgroup", "internal/failpoint", "internal/image", "internal/network", "internal/volume", "internal/worker"},
	"internal/image":                         {"gondola", "internal/durable", "internal/failpoint"},
	"internal/kube":                          {"gondola", "internal/kube/datastore", "internal/kube/provider", "internal/kube/storage", "internal/kube/translate"},
	"internal/kube/datastore":                {"internal/sqlite"},
	"internal/kube/kubectl":                  {"internal/kube"},                                                                                                               // for the version
	"internal/kube/kubetest":                 {"gondola", "internal/driver", "internal/driver/fake", "internal/kube", "internal/market", "internal/store", "internal/worker"}, // for tests alone
	"internal/kube/provider":                 {"gondola", "internal/kube/translate"},
	"internal/kube/storage":                  {"gondola", "internal/kube/translate"},
	"internal/kube/translate":                {"gondola"},
	"internal/market":                        {"gondola", "internal/seal", "internal/store"},
	"internal/network":                       {"gondola", "internal/durable", "internal/failpoint", "internal/policy"},
	"internal/policy":                        {"gondola"},
	"internal/pilot":                         {"gondola", "internal/durable", "internal/failpoint", "internal/stream"},
	"internal/seal":                          {"internal/durable", "internal/failpoint"},
	"internal/sqlite":                        {},
	"internal/store":                         {"gondola", "internal/sqlite"},
	"internal/stream":                        {"gondola"},
	"internal/volume":                        {"gondola", "internal/durable", "internal/failpoint"},
	"virtualkubelet":                         {"gondola", "internal/kube/provider"},
	"internal/worker":                        {"gondola", "internal/driver", "internal/failpoint", "internal/pilot", "internal/seal", "internal/store"},
}

// oneHome says in which folders an outside module may be imported, and why nowhere else.
var oneHome = []struct {
	module string
	homes  []string
	reason string
}{
	{"k8s.io/", []string{"internal/kube", "virtualkubelet"}, "testing all else must never compile Kubernetes"},
	{"github.com/k3s-io/kine", []string{"internal/kube/datastore"}, "testing a cluster's datastore must never compile Kubernetes"},
	{"github.com/coredns/", []string{"internal/kube"}, "cluster DNS is a matter of internal/kube"},
	{"github.com/virtual-kubelet/", []string{"internal/kube", "virtualkubelet"}, "the Virtual Kubelet's contract ends at the provider"},
	{"gvisor.dev/", []string{"internal/driver/gvisor/runsc"}, "only gondola-pilot carries gVisor"},
	{"github.com/moby/profiles", []string{"internal/driver/runc/sandbox"}, "only containers of the host's kernel need a profile"},
	{"modernc.org/sqlite", []string{"internal/sqlite", "internal/store"}, "databases are opened by internal/sqlite; internal/store knows the codes of its errors"},
	{"database/sql", []string{"internal/sqlite", "internal/store", "internal/kube/datastore"}, "all SQL lives in internal/store; kine brings its own"},
	{"github.com/google/go-containerregistry", []string{"internal/image", "internal/gondolatest"}, "registries and their formats end at internal/image"},
	{"github.com/vishvananda/", []string{"internal/network"}, "devices and rules are a matter of internal/network"},
	{"github.com/google/nftables", []string{"internal/network"}, "devices and rules are a matter of internal/network"},
	{"pgregory.net/rapid", []string{"internal/gondolatest"}, "it makes the random lives of the test kit"},
	{"mvdan.cc/sh", []string{"cmd/gondola-hello"}, "the shell is the demo image's"},
	{"github.com/prometheus/client_golang", []string{"internal/daemon"}, "parts tell what happened; only the daemon knows who counts it"},
	{"go.opentelemetry.io/otel/sdk", []string{"internal/daemon"}, "parts make spans; only the daemon knows who takes them"},
	{"github.com/spf13/cobra", []string{"internal/cli", "internal/kube/kubectl", "cmd/gondola"}, "commands are a matter of internal/cli"},
}

func TestImports_FollowTheHouseRules(t *testing.T) {
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != "." && (strings.HasPrefix(n, ".") || n == "testdata" || n == "bench" || path == "test" || path == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, test := filepath.ToSlash(filepath.Dir(path)), strings.HasSuffix(path, "_test.go")
		allowed, known := mayImport[dir]
		if !known && !test {
			t.Errorf("%s: package %s has no line in deps_test.go: write a page in docs/rfd, then add it", path, dir)
			return nil
		}
		for _, imp := range f.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			checkInside(t, path, name, dir, test, allowed)
			checkOutside(t, path, name, dir, test)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkInside(t *testing.T, path, name, dir string, test bool, allowed []string) {
	if name != "gondola" && !strings.HasPrefix(name, "gondola/") {
		if dir == "." && !test && strings.Contains(name, ".") {
			t.Errorf("%s imports %s: the vocabulary uses the standard library only, so that everybody can import it", path, name)
		}
		return
	}
	if test {
		return // tests join parts
	}
	if in := strings.TrimPrefix(name, "gondola/"); !slices.Contains(allowed, in) {
		t.Errorf("%s imports %s: %s may import %v. Parts meet in the root's contracts; only daemon and cmd/gondola join them (docs/ARCHITECTURE.md)", path, name, dir, allowed)
	}
}

func checkOutside(t *testing.T, path, name, dir string, test bool) {
	for _, h := range oneHome {
		if !strings.HasPrefix(name, h.module) {
			continue
		}
		at := slices.ContainsFunc(h.homes, func(home string) bool { return dir == home || strings.HasPrefix(dir, home+"/") })
		if !at && !test {
			t.Errorf("%s imports %s, whose place is %v: %s", path, name, h.homes, h.reason)
		}
	}
}

func TestImports_EveryRuleNamesAPackageThatExists(t *testing.T) {
	for dir := range mayImport {
		if m, _ := filepath.Glob(filepath.Join(dir, "*.go")); len(m) == 0 {
			t.Errorf("deps_test.go has a line for %s, which is not there", dir)
		}
	}
}
