package api_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gondola/internal/api"
)

// TestDoc_SaysOfEveryOperationWhetherItIsServed walks the table of docs/api.md.
func TestDoc_SaysOfEveryOperationWhetherItIsServed(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[[2]string]bool{} // method and path → it is served
	for _, line := range regexp.MustCompile(`(?m)^\| (GET|POST|PUT|PATCH|DELETE) (\S+) \| (yes|501) \|`).FindAllStringSubmatch(string(text), -1) {
		told[[2]string{line[1], line[2]}] = line[3] == "yes"
	}
	s := newServer(t)
	parameter := regexp.MustCompile(`\{\w+\}`)
	for _, r := range api.RouteTable() {
		if !strings.HasPrefix(r[1], "/v1/") || strings.HasPrefix(r[1], "/v1/gondola") {
			continue
		}
		served, known := told[r]
		delete(told, r)
		if !known {
			t.Errorf("docs/api.md has no line for %s %s", r[0], r[1])
			continue
		}
		got := s.call(r[0], parameter.ReplaceAllString(strings.Replace(r[1], "{app}", "shop", 1), "none"), "")
		if (got.status != 501) != served {
			t.Errorf("docs/api.md says served = %t of %s %s, which answers %d %s", served, r[0], r[1], got.status, got.body)
		}
	}
	for r := range told {
		t.Errorf("docs/api.md tells of %s %s, which the API does not have", r[0], r[1])
	}
}
