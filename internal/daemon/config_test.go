package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola/internal/daemon"
)

func TestLoadConfig_NamesKeyAndFileOfWhatIsWrong(t *testing.T) {
	for content, want := range map[string]string{
		"regoins: [fra]":                                  "regoins",
		"regions: fra":                                    "regions",
		"regions: [fra, fra]":                             `"fra" is named twice`,
		"regions: [Frankfurt am Main]":                    "regions",
		"nodesPerRegion: many":                            "nodesPerRegion",
		"nodesPerRegion: -1":                              "nodesPerRegion",
		"kubernetesPort: 70000":                           "kubernetesPort",
		"api: 4280":                                       "api",
		"api: 127.0.0.1:none":                             "api",
		"api: 0.0.0.0:4280":                               "api",
		"loadBalancerPools: [192.0.2.1/28]":               "192.0.2.1/28",
		"loadBalancerPools: [10.64.1.0/24]":               "overlaps the range of Machines",
		"loadBalancerPools: [192.0.2.0/28, 192.0.2.4]":    "192.0.2.4/32 overlaps 192.0.2.0/28",
		"range: 10.64.0.0/16":                             "range",
		"cluster: " + strings.Repeat("x", 30):             "cluster",
		"limits: {processes: 10}":                         "processes 10",
		"limits: {logMB: -1}":                             "logMB -1",
		"reserve: {memoryMB: -1}":                         "reserve",
		"warm: -1":                                        "warm -1",
		"warm: 17":                                        "warm 17",
		"drivers: [gvisor, kata]":                         "kata",
		"drivers: [runc, runc]":                           "named twice",
		"registries: {a.example: {mirrorr: b.example}}":   "mirrorr",
		"registries: {a.example: {plainHTTP: sometimes}}": "plainHTTP",
		"registries: {'https://a.example/': {}}":          "registries",
		"registries: {docker.io: {mirror: harbor/proxy}}": "harbor:443/proxy",
		"data: /a\ndata: /b":                              "data",
		"{":                                               "line 1",
	} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := daemon.LoadConfig(path, false)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("config file %q: error %v, want one with %q and the file", content, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "Go struct") || strings.Contains(err.Error(), "unmarshaling")) {
			t.Errorf("config file %q: the error speaks of Go: %v", content, err)
		}
	}
}

func TestLoadConfig_TakesWhatIsRight(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	full := "data: /srv/gondola\napi: 127.0.0.2:99\nregions: [fra, ams]\ncluster: prod-1\nnodesPerRegion: 2\nkubernetesPort: 7443\nrange: 10.128.0.0/10\n" +
		"loadBalancerPools: [192.0.2.0/28, \"2001:db8::/64\", 198.51.100.7]\n" +
		"registries: {\"r.example:5000\": {mirror: m.example/x, plainHTTP: true, insecure: true}}\n"
	if err := os.WriteFile(path, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := daemon.LoadConfig(path, false)
	if err != nil || c.Data != "/srv/gondola" || len(c.Regions) != 2 || !c.Registries["r.example:5000"].PlainHTTP {
		t.Errorf("LoadConfig = %+v, %v", c, err)
	}
	if _, err := daemon.LoadConfig(path+"-none", false); err == nil {
		t.Error("a config file that was asked for and is not there is no error")
	}
	if _, err := daemon.LoadConfig(path+"-none", true); err != nil {
		t.Errorf("no config file at the default place: %v", err)
	}
}
