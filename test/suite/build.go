package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// version is the Kubernetes whose suite this is.
const version = "v1.36.3"

// stamp tells the programs which Kubernetes they are; without it they say v0.0.0 and specs that compare versions fail.
const stamp = "-s -w -X k8s.io/component-base/version.gitVersion=" + version + " -X k8s.io/component-base/version.gitMajor=1" +
	" -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/component-base/version.gitTreeState=clean" +
	" -X k8s.io/client-go/pkg/version.gitVersion=" + version

// builds are the programs that the suite and its images are made of, by name: out of module test/conformance, which pins them.
var builds = []struct{ name, pkg string }{
	{"agnhost", "k8s.io/kubernetes/test/images/agnhost"},
	{"nnp", "k8s.io/kubernetes/test/images/nonewprivs"},
	{"sample-apiserver", "k8s.io/sample-apiserver"},
	{"etcd", "go.etcd.io/etcd/server/v3"},
	{"ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"},
}

// build makes e2e.test, ginkgo and what the images hold, and returns the folder of the module k8s.io/kubernetes.
func build(ctx context.Context, module, bin string) (source string, err error) {
	run := func(name string, args ...string) (string, error) {
		c := exec.CommandContext(ctx, name, args...)
		c.Dir, c.Env, c.Stderr = module, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false"), os.Stderr
		out, err := c.Output()
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	for _, b := range builds {
		if _, err := run("go", "build", "-ldflags", stamp, "-o", filepath.Join(bin, b.name), b.pkg); err != nil {
			return "", err
		}
	}
	if _, err := run("go", "test", "-c", "-vet=off", "-ldflags", stamp, "-o", filepath.Join(bin, "e2e.test"), "k8s.io/kubernetes/test/e2e"); err != nil {
		return "", err
	}
	if source, err = run("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"); err != nil {
		return "", err
	}
	for program, c := range map[string]string{"pause": filepath.Join(source, "build", "pause", "linux", "pause.c"), "sh": filepath.Join(filepath.Dir(module), "suite", "shell", "sh.c")} {
		if _, err := run("gcc", "-O2", "-static", "-DVERSION=v3.10.2", "-o", filepath.Join(bin, program), c); err != nil {
			return "", err
		}
	}
	return source, nil
}
