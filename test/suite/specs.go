package main

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// conformanceSpecs are the full names of the specs that make up conformance, by upstream's own list.
func conformanceSpecs(source string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(source, "test", "conformance", "testdata", "conformance.yaml"))
	if err != nil {
		return nil, err
	}
	var list []struct {
		Codename string `json:"codename"`
	}
	if err := yaml.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Codename)
	}
	return names, nil
}

var sigRE = regexp.MustCompile(`^\[(sig-[a-z-]+)\]`)

// sigOf is the special interest group whose spec it is.
func sigOf(spec string) string {
	if m := sigRE.FindStringSubmatch(spec); m != nil {
		return m[1]
	}
	return "other"
}

// focus is the expression that these specs match and no others.
func focus(specs []string) string {
	quoted := make([]string, len(specs))
	for i, s := range specs {
		quoted[i] = regexp.QuoteMeta(s)
	}
	return "(" + strings.Join(quoted, "|") + ")$"
}

// lines are those of a file, without empty ones and comments.
func lines(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if l := strings.TrimSpace(s.Text()); l != "" && !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	return out, nil
}
