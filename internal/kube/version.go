package kube

import (
	"runtime/debug"
	"strings"
	_ "unsafe" // go:linkname

	"k8s.io/component-base/version"
)

// Kubernetes learns its own version from -ldflags only; without them it calls itself v0.0.0-master, which kubectl and the conformance suite
// stumble over, and version.SetDynamicVersion refuses any other number. So the variables that -ldflags would set are set by name.

//go:linkname componentGitVersion k8s.io/component-base/version.gitVersion
var componentGitVersion string

//go:linkname componentGitMajor k8s.io/component-base/version.gitMajor
var componentGitMajor string

//go:linkname componentGitMinor k8s.io/component-base/version.gitMinor
var componentGitMinor string

//go:linkname componentGitCommit k8s.io/component-base/version.gitCommit
var componentGitCommit string

//go:linkname componentGitTreeState k8s.io/component-base/version.gitTreeState
var componentGitTreeState string

//go:linkname clientGitVersion k8s.io/client-go/pkg/version.gitVersion
var clientGitVersion string

// The version comes from kubernetesModule in this executable's build info, or, where that is bare as in a test's, is kubernetesVersion; a test
// holds it against go.mod.
const (
	kubernetesModule  = "k8s.io/kubernetes"
	kubernetesVersion = "v1.36.3"
)

// StampVersion gives the Kubernetes code in this process the version of the module it was built from, unless -ldflags did. It returns that
// version, such as "v1.36.3". Doing it again is harmless; call it before anything of Kubernetes runs.
func StampVersion() string {
	if !strings.HasPrefix(componentGitVersion, "v0.0.0-master") {
		return componentGitVersion
	}
	v := builtFrom(kubernetesModule)
	if v == "" {
		v = kubernetesVersion
	}
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	componentGitVersion, componentGitMajor, componentGitMinor = v, parts[0], parts[1]
	componentGitCommit, componentGitTreeState = "", "clean"
	clientGitVersion = v
	if err := version.SetDynamicVersion(v); err != nil { // cannot be: v was just made the default
		panic(err)
	}
	return v
}

// builtFrom returns the version of a module in this executable; "" if it is not there.
func builtFrom(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path != module {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		return m.Version
	}
	return ""
}
