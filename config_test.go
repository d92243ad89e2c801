package gondola_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"gondola"
)

func TestConfig_ReadsWhatClientsSend(t *testing.T) {
	var c gondola.Config
	in := `{"image":"nginx","init":{},"guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512},"stop_config":{"signal":9,"timeout":15000000000},
	 "services":[{"protocol":"tcp","internal_port":80,"autostop":"stop","force_instance_key":null,"ports":[{"port":443,"handlers":["tls","http"]}]}],
	 "checks":{"up":{"type":"http","interval":"10s","grace_period":5000000000}},"something_new":{"a":1}}`
	if err := json.Unmarshal([]byte(in), &c); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"signal":"SIGKILL"`, `"timeout":"15s"`, `"autostop":true`, `"interval":"10s"`, `"grace_period":"5s"`, `"handlers":["tls","http"]`, `"init":{}`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("printed config lacks %s:\n%s", want, out)
		}
	}
}

func TestConfig_ValidateNamesTheField(t *testing.T) {
	rows := []struct{ name, config, want string }{
		{"no image", `{}`, "config.image is missing"},
		{"unknown size", `{"image":"a","size":"huge"}`, `config.size "huge"`},
		{"bad policy", `{"image":"a","restart":{"policy":"sometimes"}}`, `config.restart.policy "sometimes"`},
		{"two containers of one name", `{"containers":[{"name":"a","image":"x"},{"name":"a","image":"x"}]}`, `config.containers[1].name "a" is used twice`},
		{"circle", `{"containers":[{"name":"a","image":"x","depends_on":[{"name":"b"}]},{"name":"b","image":"x","depends_on":[{"name":"a"}]}]}`, "wait for each other"},
		{"unknown dependency", `{"containers":[{"name":"a","image":"x","depends_on":[{"name":"b"}]}]}`, `there is no container "b"`},
		{"mount of no volume", `{"containers":[{"name":"a","image":"x","mounts":[{"name":"v","path":"/v"}]}]}`, `config.containers[0].mounts[0].name "v"`},
		{"relative mount", `{"volumes":[{"name":"v"}],"containers":[{"name":"a","image":"x","mounts":[{"name":"v","path":"v"}]}]}`, `must be absolute`},
		{"bad variable", `{"image":"a","env":{"A=B":"c"}}`, `"A=B" cannot be the name of a variable`},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			var c gondola.Config
			if err := json.Unmarshal([]byte(r.config), &c); err != nil {
				t.Fatal(err)
			}
			err := c.Validate()
			if !errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), r.want) {
				t.Errorf("Validate(%s) = %v, want one with %q", r.config, err, r.want)
			}
		})
	}
}

func TestPersistence_WordsAndNumbers(t *testing.T) {
	for _, r := range []struct{ config, want string }{
		{`{}`, "never"},
		{`{"rootfs":{},"guest":{}}`, "never"},
		{`{"rootfs":{"persist":""},"guest":{"persist_rootfs":0}}`, "never"},
		{`{"rootfs":{"persist":"restart"}}`, "restart"},
		{`{"rootfs":{"persist":3}}`, "restart"},
		{`{"guest":{"persist_rootfs":"always"}}`, "always"},
		{`{"guest":{"persist_rootfs":2},"rootfs":{"persist":"always"}}`, "always"},
		{`{"guest":{"persist_rootfs":2},"rootfs":{"persist":0}}`, "always"},
		{`{"guest":{"persist_rootfs":1},"rootfs":{"persist":"never"}}`, "never"},
		{`{"guest":{"persist_rootfs":"always"},"rootfs":{"persist":"never"}}`, "config.rootfs.persist is never and config.guest.persist_rootfs always"},
		{`{"rootfs":{"persist":"sometimes"}}`, "config.rootfs.persist sometimes: use never, restart or always"},
		{`{"rootfs":{"persist":1.5}}`, "config.rootfs.persist 1.5"},
		{`{"guest":{"persist_rootfs":4}}`, "config.guest.persist_rootfs 4"},
		{`{"guest":{"persist_rootfs":[2]}}`, "config.guest.persist_rootfs [2]"},
	} {
		var c gondola.Config
		if err := json.Unmarshal([]byte(r.config), &c); err != nil {
			t.Fatal(err)
		}
		got, err := c.Persistence()
		if err != nil {
			if !errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), r.want) {
				t.Errorf("Persistence of %s: %v, want one with %q", r.config, err, r.want)
			}
		} else if string(got) != r.want {
			t.Errorf("Persistence of %s = %s, want %s", r.config, got, r.want)
		}
	}
}

func TestRequests_OfGuestsAndOfPods(t *testing.T) {
	rows := []struct {
		name          string
		config        gondola.Config
		requests, max gondola.Resources
	}{
		{"default", gondola.Config{Image: "a"}, gondola.Resources{CPUMillis: 62, MemoryBytes: 256 << 20}, gondola.Resources{CPUMillis: 1000, MemoryBytes: 256 << 20}},
		{"size", gondola.Config{Size: "performance-2x"}, gondola.Resources{CPUMillis: 2000, MemoryBytes: 4096 << 20}, gondola.Resources{CPUMillis: 2000, MemoryBytes: 4096 << 20}},
		{"pod", gondola.Config{Gondola: &gondola.ConfigExtension{Requests: &gondola.Resources{CPUMillis: 10, MemoryBytes: 1}}}, gondola.Resources{CPUMillis: 10, MemoryBytes: 1}, gondola.Resources{}},
		{"pod that asks for nothing", gondola.Config{Gondola: &gondola.ConfigExtension{Requests: &gondola.Resources{}}}, gondola.Overhead, gondola.Resources{}},
	}
	for _, r := range rows {
		req, max := r.config.Requests()
		if req != r.requests || max != r.max {
			t.Errorf("%s: Requests() = %v, %v, want %v, %v", r.name, req, max, r.requests, r.max)
		}
	}
}

func TestRestart_PolicyAndBackoff(t *testing.T) {
	rows := []struct {
		policy   *gondola.RestartPolicy
		code, n  int
		restarts bool
	}{
		{nil, 0, 0, false}, {nil, 1, 9, true}, {nil, 1, 10, false},
		{&gondola.RestartPolicy{Policy: "always"}, 0, 1000, true},
		{&gondola.RestartPolicy{Policy: "no"}, 1, 0, false},
		{&gondola.RestartPolicy{Policy: "on-failure", MaxRetries: -1}, 1, 1000, true},
		{&gondola.RestartPolicy{Policy: "on-failure", MaxRetries: 2}, 1, 2, false},
	}
	for _, r := range rows {
		if got := r.policy.Restart(r.code, r.n); got != r.restarts {
			t.Errorf("%+v.Restart(%d, %d) = %v", r.policy, r.code, r.n, got)
		}
	}
	for n, want := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute} {
		if got := gondola.KubernetesBackoff.Wait(n); got != want {
			t.Errorf("Wait(%d) = %v, want %v", n, got, want)
		}
	}
}

func TestULID_SortsByTimeAndHasTheStandardForm(t *testing.T) {
	a, b := gondola.NewULID(time.UnixMilli(1469918176385)), gondola.NewULID(time.UnixMilli(1469918176386))
	if len(a) != 26 || a[:10] != "01ARYZ6S41" { // the example of the specification
		t.Errorf("NewULID = %s, want 01ARYZ6S41…", a)
	}
	if a >= b {
		t.Errorf("%s is not before %s", a, b)
	}
}

func TestAppOfNamespace_NeverCollidesAndFits(t *testing.T) {
	long := strings.Repeat("n", 63)
	a, b := gondola.AppOfNamespace("main", long), gondola.AppOfNamespace("main", long[:62]+"m")
	if a == b || len(a) > 63 || a.Validate() != nil {
		t.Errorf("AppOfNamespace: %q, %q", a, b)
	}
	if got := gondola.AppOfNamespace("main", "default"); got != "main-default" {
		t.Errorf("AppOfNamespace = %q", got)
	}
}

func TestMetrics_ErrorsNameFieldValueAndRange(t *testing.T) {
	for want, m := range map[string]gondola.Metrics{
		"":                                    {Port: 65535, Path: "/"},
		`config.metrics.port 0: use 1 to`:     {Path: "/metrics"},
		`config.metrics.port 65536: use 1 to`: {Port: 65536, Path: "/metrics"},
		`config.metrics.path "": begin`:       {Port: 9091},
		`config.metrics.path "m": begin`:      {Port: 9091, Path: "m"},
	} {
		err := (&gondola.Config{Image: "a", Metrics: &m}).Validate()
		if want == "" && err != nil || want != "" && (!errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("Validate of %+v = %v, want %q", m, err, want)
		}
	}
}
