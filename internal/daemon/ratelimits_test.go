package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola/internal/daemon"
)

func TestConfig_RateLimitsAreChecked(t *testing.T) {
	load := func(text string) error {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := daemon.LoadConfig(path, false)
		return err
	}
	for _, good := range []string{
		"rateLimits: {unlimited: true}",
		"rateLimits: {default: {perSecond: -1}}",
		"rateLimits: {default: {perSecond: 10, burst: 20}, actions: {\"POST /v1/apps/{app}/machines\": {perSecond: 0.5, burst: 1}}}",
	} {
		if err := load(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"rateLimits: {default: {perSecond: 0, burst: 1}}":                        "default: perSecond 0: want",
		"rateLimits: {default: {perSecond: 1}}":                                  "burst 0: want 1",
		"rateLimits: {actions: {\"GET /v1/gondola\": {perSecond: 1, burst: 1}}}": "GET /v1/gondola",
		"rateLimits: {often: true}":                                              "often",
	} {
		if err := load(bad); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "config.yaml") {
			t.Errorf("%s: %v, want %s", bad, err, want)
		}
	}
}
