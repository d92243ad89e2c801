package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/client"
	"gondola/internal/cli"
	"gondola/internal/gondolatest"
)

// terminal runs commands against a platform as a person does.
type terminal struct {
	t    *testing.T
	data string
	in   string
}

// result is what a command left on the screen.
type result struct {
	code     int
	out, err string
}

func newTerminal(t *testing.T, o gondolatest.Options) (*terminal, *gondolatest.Platform) {
	t.Helper()
	p := gondolatest.New(t, o)
	data := t.TempDir()
	token := filepath.Join(data, "token")
	regions := o.Regions
	if regions == nil {
		regions = []gondola.Region{gondola.DefaultRegion}
	}
	b, err := json.Marshal(client.Running{API: p.URL, TokenFile: token, Regions: regions, Clusters: []client.RunningCluster{{Name: "main", Kubeconfig: "/k", Server: "https://s"}}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{token: p.Auth.Root(), filepath.Join(data, client.RunningFile): string(b)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &terminal{t: t, data: data}, p
}

func (c *terminal) run(args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	return c.runIn(ctx, args...)
}

func (c *terminal) runIn(ctx context.Context, args ...string) result {
	var out, err bytes.Buffer
	code := cli.Main(ctx, cli.Parts{Version: "test", DataDir: c.data, In: strings.NewReader(c.in), Out: &out, Err: &err}, args)
	return result{code, out.String(), err.String()}
}

// ok runs a command that has to succeed and returns what it printed.
func (c *terminal) ok(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != 0 {
		c.t.Fatalf("gondola %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

func jsonOf[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return v
}

func TestMachine_FromRunToDestroy(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{Regions: []gondola.Region{"aaa", "bbb"}})
	m := jsonOf[gondola.Machine](t, c.ok("--json", "machine", "run", "--name", "web", "--region", "bbb", "--size", "shared-cpu-2x", "-e", "A=b=c", "test/app"))
	if m.State != gondola.Started || m.Region != "bbb" || m.Name != "web" || m.Config.Env["A"] != "b=c" || m.Config.Guest.CPUs != 2 {
		t.Errorf("machine run --json = %+v, config %+v", m, m.Config)
	}
	table := c.ok("machine", "list")
	for _, want := range []string{`(?m)^ID +NAME +APP +REGION +STATE +ADDRESS +IMAGE +AGE$`, `(?m)^` + string(m.ID) + ` +web +default +bbb +started .* test/app +\d+s$`} {
		if !regexp.MustCompile(want).MatchString(table) {
			t.Errorf("machine list lacks %s:\n%s", want, table)
		}
	}
	if all := jsonOf[[]gondola.Machine](t, c.ok("machine", "ls", "--json", "--app", "default", "--state", "started")); len(all) != 1 || all[0].ID != m.ID {
		t.Errorf("machine ls --json = %+v", all)
	}
	if out := c.ok("machine", "list", "-q", "--state", "stopped,started"); out != string(m.ID)+"\n" {
		t.Errorf("machine list --state stopped,started = %q, want %s", out, m.ID)
	}
	if out := c.ok("machine", "list", "-q", "--state", "stopped"); out != "" {
		t.Errorf("machine list --state stopped = %q, want none", out)
	}
	if out := c.ok("machine", "list", "--json", "--region", "aaa"); strings.TrimSpace(out) != "[]" {
		t.Errorf("no Machines as JSON are %q, want []", out)
	}
	if out := c.ok("machine", "status", "web"); !strings.Contains(out, string(m.ID)) || !strings.Contains(out, "running") || !strings.Contains(out, "EVENT") {
		t.Errorf("machine status by name:\n%s", out)
	}
	if out := c.ok("machine", "stop", string(m.ID)); out != string(m.ID)+" is stopped\n" {
		t.Errorf("machine stop = %q", out)
	}
	if s := jsonOf[gondola.Machine](t, c.ok("machine", "start", "web", "--json")); s.State != gondola.Started {
		t.Errorf("machine start --json = %+v", s)
	}
	c.ok("machine", "restart", "web")
	c.ok("machine", "update", "web", "-e", "X=y")
	if u := jsonOf[gondola.Machine](t, c.ok("machine", "status", "web", "--json")); u.Config.Env["X"] != "y" || u.Config.Env["A"] != "b=c" || u.Version == m.Version {
		t.Errorf("after an update: %+v, config %+v", u, u.Config)
	}
	if out := c.ok("machine", "wait", "web", "--state", "started"); !strings.Contains(out, "is started") {
		t.Errorf("machine wait = %q", out)
	}
	if versions := jsonOf[[]gondola.MachineVersion](t, c.ok("machine", "versions", "web", "--json")); len(versions) != 2 || versions[0].Config.Env["X"] != "y" {
		t.Errorf("machine versions --json = %+v", versions)
	}
	if events := jsonOf[[]gondola.Event](t, c.ok("machine", "events", "web", "--json")); len(events) < 4 {
		t.Errorf("machine events --json = %+v", events)
	}
	if out := c.ok("machine", "destroy", "--force", "web"); out != string(m.ID)+" destroyed\n" {
		t.Errorf("machine destroy = %q", out)
	}
	if out := c.ok("machine", "list", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("after destroy: %s", out)
	}
}

// A job may have ended before anybody looks whether it runs: that is no failure to start it.
func TestStart_OfAJobThatHasEndedAlreadyGoesWell(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{})
	m := jsonOf[gondola.Machine](t, c.ok("machine", "run", "--name", "job", "--restart", "no", "--json", "test/app", "trap"))
	to, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	reach := func(s gondola.State) {
		if _, err := p.Wait(t.Context(), m.Ref(), gondola.WaitRequest{States: []gondola.State{s}, Timeout: 20 * time.Second}); err != nil {
			t.Error(err)
		}
	}
	var ends atomic.Bool // the job, between the command's call and its first look
	pass := httputil.NewSingleHostReverseProxy(to)
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/wait") && ends.CompareAndSwap(true, false) {
			reach(gondola.Started)
			if err := p.Signal(t.Context(), m.Ref(), "SIGKILL"); err != nil {
				t.Error(err)
			}
			reach(gondola.Stopped)
		}
		pass.ServeHTTP(w, r)
	}))
	defer slow.Close()
	for _, verb := range []string{"restart", "start"} {
		ends.Store(true)
		if r := c.run("machine", verb, "job", "--api", slow.URL, "--token", p.Auth.Root()); r.code != 0 || r.out != string(m.ID)+" is stopped\n" {
			t.Errorf("machine %s = %+v, want it done", verb, r)
		}
	}
	ends.Store(true)
	if r := c.run("machine", "update", "job", "--env", "A=1", "--api", slow.URL, "--token", p.Auth.Root()); r.code != 0 || !strings.HasSuffix(r.out, " and is stopped\n") {
		t.Errorf("machine update = %+v, want it done", r)
	}
}

func TestStop_TimeoutOfZeroKillsAtOnce(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	config := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(config, []byte(`{"image": "test/app", "init": {"cmd": ["ignore"]}, "stop_config": {"timeout": "4m"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok("machine", "run", "--name", "stubborn", "--machine-config", config)
	if out := c.ok("machine", "restart", "stubborn", "--timeout", "0"); !strings.Contains(out, "is started") {
		t.Errorf("machine restart --timeout 0 = %q", out)
	}
	if out := c.ok("machine", "stop", "stubborn", "--timeout", "0"); !strings.Contains(out, "is stopped") {
		t.Errorf("machine stop --timeout 0 = %q", out)
	}
	if r := c.run("machine", "stop", "stubborn", "--timeout", "-1s"); r.code != 2 || !strings.Contains(r.err, "--timeout -1s") {
		t.Errorf("machine stop --timeout -1s = %+v", r)
	}
}

func TestLease_KeepsOthersOut(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	c.ok("machine", "run", "--name", "web", "test/app")
	lease := jsonOf[gondola.Lease](t, c.ok("machine", "lease", "acquire", "web", "--ttl", "1m", "--description", "by hand", "--json"))
	if r := c.run("machine", "cordon", "web"); r.code != 1 || !strings.Contains(r.err, "lease currently held by") {
		t.Errorf("cordon without the lease = %+v", r)
	}
	if out := c.ok("machine", "lease", "view", "web"); !strings.Contains(out, lease.Nonce) || !strings.Contains(out, "by hand") {
		t.Errorf("lease view:\n%s", out)
	}
	c.ok("machine", "--lease", lease.Nonce, "cordon", "web")
	if m := jsonOf[gondola.Machine](t, c.ok("machine", "status", "web", "--json")); !m.Cordoned {
		t.Error("the holder's cordon was not done")
	}
	c.ok("machine", "lease", "clear", "web")
	c.ok("machine", "uncordon", "web")
	if r := c.run("machine", "lease", "show", "web"); r.code != 1 || !strings.Contains(r.err, "nobody holds") {
		t.Errorf("lease show of a free machine = %+v", r)
	}
}

func TestExec_HandsOnOutputInputAndExitCode(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	c.ok("machine", "run", "--name", "one", "test/app")
	for _, prefix := range [][]string{nil, {"machine"}} {
		run := func(args ...string) result { return c.run(append(append([]string{}, prefix...), args...)...) }
		if r := run("exec", "one", "/program", "print", "hi", ";", "printerr", "oh", ";", "exit", "7"); r.code != 7 || r.out != "hi\n" || r.err != "oh\n" {
			t.Errorf("%v exec = %+v, want hi, oh and exit code 7", prefix, r)
		}
	}
	c.in = "typed\n"
	if r := c.run("exec", "-i", "one", "/program", "echo"); r.code != 0 || !strings.Contains(r.out, "typed") {
		t.Errorf("exec -i echo = %+v", r)
	}
	if r := c.run("exec", "-t", "one", "/program", "exit", "0"); r.code != 1 || !strings.Contains(r.err, "wants a terminal") {
		t.Errorf("exec -t without a terminal = %+v", r)
	}
}

func TestLogs_Flags(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	c.ok("machine", "run", "--name", "talks", "--restart", "no", "test/app", "print", "one", "two", "three", ";", "run")
	all := ""
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(all, "running") && time.Now().Before(deadline); {
		all = c.ok("logs", "talks")
	}
	if all != "one\ntwo\nthree\nrunning\n" {
		t.Fatalf("logs = %q", all)
	}
	if out := c.ok("machine", "logs", "talks", "--tail", "1"); out != "running\n" {
		t.Errorf("logs --tail 1 = %q", out)
	}
	if out := c.ok("logs", "talks", "--tail", "1", "--timestamps"); !regexp.MustCompile(`^20\d\d-\S+Z running\n$`).MatchString(out) {
		t.Errorf("logs --timestamps = %q", out)
	}
	if out := c.ok("logs", "talks", "--since", "1h"); out != all {
		t.Errorf("logs --since 1h = %q", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if r := c.runIn(ctx, "logs", "-f", "talks"); r.code != 0 || r.out != all {
		t.Errorf("logs -f, ended by Ctrl-C = %+v", r)
	}
}

func TestErrors_NameTheThingAndTheNextStep(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{Regions: []gondola.Region{"aaa", "bbb"}, Total: gondola.Resources{CPUMillis: 2000, MemoryBytes: 1 << 30}})
	c.ok("machine", "run", "--name", "twin", "--app", "a", "test/app")
	c.ok("machine", "run", "--name", "twin", "--app", "b", "test/app")
	first := jsonOf[gondola.Volume](t, c.ok("volume", "create", "disk", "--json"))
	second := jsonOf[gondola.Volume](t, c.ok("volume", "fork", "disk", "--json"))
	c.ok("volume", "destroy", string(jsonOf[gondola.Volume](t, c.ok("volume", "create", "gone", "--json")).ID))
	empty := t.TempDir()
	for _, test := range []struct {
		args string
		want []string
	}{
		{"machine status nobody", []string{`"nobody"`, "gondola machine list"}},
		{"machine stop twin", []string{"2 Machines are named", "use an id"}},
		{"volume show disk", []string{"2 volumes are named", "use an id", string(first.ID), string(second.ID)}},
		{"volume recover gone", []string{`no volume "gone"`, "gondola volume list"}},
		{"machine run --region zzz test/app", []string{"zzz", "aaa", "bbb"}},
		{"machine list --region zzz", []string{"zzz", "aaa", "bbb"}},
		{"machine run nowhere/app", []string{"nowhere/app"}},
		{"machine run --size huge test/app", []string{`"huge"`, "performance-16x"}},
		{"machine run --size performance-16x test/app", []string{"aaa:", "bbb:", "gondola market ask"}},
		{"machine list --state asleep", []string{"asleep", "started"}},
		{"machine run --name " + strings.Repeat("x", 300) + " test/app", []string{"name", "253"}},
		{"app destroy none", []string{"none"}},
		{"app create Not_A_Name", []string{"Not_A_Name"}},
		{"image import /does/not/exist.tar", []string{"/does/not/exist.tar"}},
		{"image import /etc/passwd", []string{"archive"}},
		{"machine list --token wrong", []string{"--token"}},
		{"machine list --api http://127.0.0.1:1 --token t", []string{"127.0.0.1:1", "gondola up"}},
		{"machine list --data " + empty, []string{empty, "gondola up"}},
		{"status --data " + empty, []string{empty, "gondola up"}},
		{"exec twin ls", []string{"2 Machines"}},
	} {
		began := time.Now()
		r := c.run(strings.Fields(test.args)...)
		if r.code != 1 || r.out != "" || !strings.HasPrefix(r.err, "gondola: ") {
			t.Errorf("gondola %s = %+v, want exit code 1 and an error only", test.args, r)
		}
		for _, w := range test.want {
			if !strings.Contains(r.err, w) {
				t.Errorf("gondola %s does not say %q: %s", test.args, w, r.err)
			}
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("gondola %s took %s to fail", test.args, took)
		}
	}
}

func TestToken_OfTheDataDirectoryIsForItsOwnAPIAlone(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{})
	var asked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	defer other.Close()
	if r := c.run("app", "list", "--api", other.URL); r.code != 2 || !strings.Contains(r.err, other.URL) || !strings.Contains(r.err, "GONDOLA_TOKEN") || asked.Load() {
		t.Errorf("app list --api of another = %+v, and that was asked: %t; want no request and what to pass", r, asked.Load())
	}
	t.Setenv("GONDOLA_API", other.URL)
	if r := c.run("status"); r.code != 2 || asked.Load() {
		t.Errorf("status with another GONDOLA_API = %+v, and that was asked: %t", r, asked.Load())
	}
	c.ok("app", "list", "--api", p.URL)
	c.ok("app", "list", "--api", p.URL+"/")
}

func TestStatus_OfAnotherMachineIsThatMachines(t *testing.T) {
	here, _ := newTerminal(t, gondolatest.Options{})
	_, there := newTerminal(t, gondolatest.Options{Regions: []gondola.Region{"aaa", "bbb"}})
	for name, c := range map[string]*terminal{"with a platform here": here, "with none": {t: t, data: t.TempDir()}} {
		remote := []string{"--api", there.URL, "--token", there.Auth.Root()}
		out := c.ok(append(remote, "status")...)
		if !strings.Contains(out, there.URL) || !strings.Contains(out, "aaa") || strings.Contains(out, c.data) || strings.Contains(out, "Cluster") {
			t.Errorf("status, %s:\n%s", name, out)
		}
		s := jsonOf[client.Running](t, c.ok(append(remote, "status", "--json")...))
		if s.API != there.URL || !slices.Equal(s.Regions, []gondola.Region{"aaa", "bbb"}) || s.TokenFile != "" || len(s.Clusters) != 0 {
			t.Errorf("status --json, %s = %+v", name, s)
		}
	}
}

func TestUsage_IsExitCode2(t *testing.T) {
	c := &terminal{t: t, data: t.TempDir()}
	for args, want := range map[string]string{
		"bogus":                     "unknown command",
		"machine bogus":             "run, ", // names what there is
		"image bogus":               "import",
		"machine run":               "an image",
		"machine status":            "the id or name of a Machine",
		"machine status a b":        "got 2",
		"machine list extra":        "no arguments",
		"machine list --nonsense":   "gondola machine list --help",
		"machine run -e NOVALUE x":  "NAME=VALUE",
		"machine destroy":           "a Machine",
		"exec one":                  "a command",
		"logs one --tail many":      "invalid argument",
		"logs one --since tomorrow": "invalid argument",
		"app create":                "a name",
	} {
		if r := c.run(strings.Fields(args)...); r.code != 2 || !strings.Contains(r.err, want) {
			t.Errorf("gondola %s = %+v, want exit code 2 and %q", args, r, want)
		}
	}
}

func TestApps(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	if a := jsonOf[gondola.App](t, c.ok("app", "create", "shop", "--network", "backstage", "--json")); a.Name != "shop" || a.Network != "backstage" {
		t.Errorf("app create --json = %+v", a)
	}
	if out := c.ok("app", "list"); !regexp.MustCompile(`(?m)^shop +personal +backstage `).MatchString(out) {
		t.Errorf("app list:\n%s", out)
	}
	if r := c.run("app", "create", "shop"); r.code != 1 || !strings.Contains(r.err, "shop") {
		t.Errorf("a second app create = %+v", r)
	}
	if apps := jsonOf[[]gondola.App](t, c.ok("app", "list", "--json")); len(apps) != 1 {
		t.Errorf("app list --json = %+v", apps)
	}
	c.ok("app", "destroy", "shop")
	if out := c.ok("app", "list", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("app list --json = %s", out)
	}
}

func TestMarketAndStatus(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{Regions: []gondola.Region{"aaa", "bbb"}, Total: gondola.Resources{CPUMillis: 2000, MemoryBytes: 1 << 30}})
	out := c.ok("market", "ask", "--region", "bbb", "--cpu-millis", "500", "--memory", "64")
	if !regexp.MustCompile(`(?m)^bbb +bbb +bid `).MatchString(out) || strings.Contains(out, "aaa") {
		t.Errorf("market ask:\n%s", out)
	}
	if out := c.ok("market", "ask", "--cpu-millis", "900000"); strings.Count(out, "refusal") != 2 || !strings.Contains(out, "900 CPUs") {
		t.Errorf("market ask for too much:\n%s", out)
	}
	if a := jsonOf[gondola.Auction](t, c.ok("market", "ask", "--json")); len(a.Bids) != 2 {
		t.Errorf("market ask --json = %+v", a)
	}
	s := jsonOf[map[string]any](t, c.ok("status", "--json"))
	if s["api"] != p.URL || s["token_file"] != filepath.Join(c.data, "token") || len(s["regions"].([]any)) != 2 {
		t.Errorf("status --json = %v", s)
	}
	if k := s["clusters"].([]any)[0].(map[string]any); k["name"] != "main" || k["kubeconfig"] != "/k" {
		t.Errorf("status --json clusters = %v", k)
	}
	if out := c.ok("status"); !regexp.MustCompile(`(?m)^REGION +MACHINES +FREE +CAPACITY$`).MatchString(out) || !strings.Contains(out, p.URL) {
		t.Errorf("status:\n%s", out)
	}
	if r := jsonOf[[]gondola.RegionInfo](t, c.ok("region", "list", "--json")); len(r) != 2 {
		t.Errorf("region list --json = %+v", r)
	}
	if v := jsonOf[map[string]string](t, c.ok("version", "--json")); v["version"] != "test" {
		t.Errorf("version --json = %v", v)
	}
}

func TestCompletion(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := c.ok("completion", shell); !strings.Contains(out, "gondola") || len(out) < 500 {
			t.Errorf("completion %s:\n%s", shell, out)
		}
	}
	m := jsonOf[gondola.Machine](t, c.ok("machine", "run", "--name", "web", "--json", "test/app"))
	if out := c.ok("__complete", "logs", ""); !strings.Contains(out, string(m.ID)+"\tweb") {
		t.Errorf("Tab after gondola logs offers:\n%s", out)
	}
}

func TestImageList_JSONHasReferences(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	if out := c.ok("image", "list", "--json"); !strings.HasPrefix(out, "[") {
		t.Errorf("image list --json = %s", out)
	}
	c.ok("machine", "run", "test/app")
	images := jsonOf[[]map[string]any](t, c.ok("image", "list", "--json"))
	if len(images) == 0 || images[0]["reference"] == nil {
		t.Errorf("image list --json = %v", images)
	}
	if out := c.ok("image", "list"); !strings.HasPrefix(out, "REFERENCE") {
		t.Errorf("image list:\n%s", out)
	}
	if freed := jsonOf[map[string]int64](t, c.ok("image", "prune", "--json")); freed["freed_bytes"] < 0 {
		t.Errorf("image prune --json = %v", freed)
	}
}
