package api_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/internal/api"
	"gondola/internal/gondolatest"
)

var (
	malformed = flag.Int("malformed", 120, "bad requests per route")
	seed      = flag.Uint64("malformed-seed", 1, "of the bad requests")
)

// wellFormed are bodies from which bad ones are made, by how their route's path ends.
var wellFormed = map[string]string{
	"POST /machines": `{"name":"m","region":"local","skip_launch":true,"skip_service_registration":true,"lease_ttl":5,"min_secrets_version":1,"config":{"image":"test/app",
		"guest":{"cpu_kind":"shared","cpus":1,"memory_mb":256,"kernel_args":["a"]},"env":{"A":"b"},"metadata":{"k":"v"},"init":{"cmd":["trap"],"entrypoint":["a"],"exec":["b"],"tty":false},
		"restart":{"policy":"on-failure","max_retries":3},"services":[{"protocol":"tcp","internal_port":80,"autostop":"stop","autostart":true,"min_machines_running":1,
		"ports":[{"port":80,"handlers":["http"],"force_https":true}],"concurrency":{"type":"requests","soft_limit":1,"hard_limit":2},"checks":[{"type":"tcp","interval":"15s","timeout":"2s"}]}],
		"checks":{"c":{"type":"http","port":80,"path":"/","interval":"15s","timeout":"2s","grace_period":"1s"}},"mounts":[{"volume":"vol_0123456789abcdef","path":"/data","size_gb":1}],
		"files":[{"guest_path":"/f","raw_value":"aGVsbG8="}],"processes":[{"cmd":["a"]}],"stop_config":{"timeout":"5s","signal":"SIGTERM"},"auto_destroy":true,"schedule":"daily",
		"dns":{"nameservers":["1.1.1.1"],"skip_registration":true},"metrics":{"port":9090,"path":"/metrics"},"statics":[{"guest_path":"/s","url_prefix":"/s"}],
		"containers":[{"name":"a","image":"test/app","cmd":["trap"],"depends_on":[{"name":"b","condition":"started"}],"healthchecks":[{"name":"h","interval":5,"http":{"port":80}}]},{"name":"b","image":"test/app"}],
		"gondola":{"driver":"fake","hostname":"h"}},"gondola":{"requests":{"cpu_millis":1,"memory_bytes":1}}}`,
	"POST /machines/{id}":    `{"current_version":"01ARZ3NDEKTSV4RRFFQ69G5FAV","force":true,"config":{"image":"test/app","guest":{"cpus":1,"memory_mb":256}}}`,
	"POST /apps":             `{"name":"x","app_name":"x","org_slug":"personal","network":"n","enable_subdomains":true}`,
	"PUT /metadata":          `{"metadata":{"a":"1","b":null},"machine_version":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}`,
	"PATCH /metadata":        `{"metadata":{"a":"1","b":null},"machine_version":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}`,
	"POST /{key}":            `{"value":"v"}`,
	"POST /exec":             `{"command":["/program","print","a"],"cmd":"echo 'x'","stdin":"s","timeout":1,"container":"c"}`,
	"POST /stop":             `{"signal":"SIGTERM","timeout":"1s"}`,
	"POST /signal":           `{"signal":"SIGUSR1"}`,
	"POST /lease":            `{"ttl":5,"description":"d"}`,
	"POST /volumes":          `{"name":"data","region":"local","size_gb":1,"encrypted":true,"fstype":"ext4","snapshot_id":"vs_1","snapshot_retention":5,"source_volume_id":"vol_1","require_unique_zone":true,"compute":{"cpus":1,"memory_mb":256}}`,
	"PUT /{volume}":          `{"auto_backup_enabled":true,"snapshot_retention":5}`,
	"PUT /extend":            `{"size_gb":2}`,
	"POST /snapshots":        `{"id":"vs_1"}`,
	"POST /network_policies": `{"name":"web","selector":{"all":true,"metadata":{"a":"b"}},"rules":[{"action":"allow","direction":"ingress","ports":[{"protocol":"tcp","port":80}]}]}`,
	"POST /placements":       `{"org_slug":"personal","region":"any","count":2,"compute":{"cpus":1,"memory_mb":256},"volume_name":"v","volume_size_bytes":1,"weights":{"region":50,"spread":1}}`,
	"POST /ask":              `{"region":"local","requests":{"cpu_millis":100,"memory_bytes":1000}}`,
	"POST /deploy_token":     `{"expiry":"1h"}`,
	"POST /authenticate":     `{"header":"Bearer gdl.AAAA.AAAA"}`,
	"POST /authorize":        `{"header":"Bearer gdl.AAAA.AAAA","access":{"action":31,"app_name":"shop","org_slug":"personal","machine_id":"0123456789abcd","command":["a"]}}`,
	"POST /tokens":           `{"name":"n","caveats":{"org":"personal","apps":["shop"],"machines":["0123456789abcd"],"readonly":true,"from_machine":"0123456789abcd","expires":"2099-01-01T00:00:00Z"}}`,
	"PUT /payload":           `{"volumes":{"v":[{"path":"a","data":"aGVsbG8=","mode":420}]},"env":{"c":{"A":"b"}},"credentials":[{"registry":"r","username":"u","password":"p"}]}`,
	"POST /containers":       `{"container":{"name":"debug","image":"test/app","cmd":["trap"]},"target":"main"}`,
	"PUT /memory":            `{"limit_mb":512}`,
	"PUT /size":              `{"guest":{"cpus":1,"memory_mb":256},"containers":{"a":{"cpu_millis":1,"memory_bytes":1}}}`,
	"PUT /services":          `[{"name":"s","addresses":["10.0.0.1"],"ports":[{"protocol":"tcp","port":80,"backends":["10.64.0.1:80"],"node_port":30000}],"affinity":5}]`,
	"PUT /{owner}":           `{"policies":[{"name":"p","selector":{"metadata":{"a":"b"}},"ingress":{"rules":[{"peers":[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}],"ports":[{"protocol":"tcp","port":80,"end_port":90}]}]}}],"groups":{"g":["10.0.0.1"]}}`,
}

// oddValues stand where something else should.
var oddValues = []any{nil, true, -1, 0, 1.5, 1e300, -9223372036854775808, uint64(18446744073709551615), "", "x", " ", "\x00", "../../etc/passwd", "💥", strings.Repeat("a", 5000),
	"-1", "9999999999999999999999s", "1h", "SIGNOPE", []any{}, []any{nil}, []any{[]any{[]any{}}}, map[string]any{}, map[string]any{"": nil}, map[string]any{"x": map[string]any{}}, "10.0.0.0/99", "0.0.0.0", "::", "%n%s", "'; DROP TABLE apps; --"}

// oddNames are parameters of some route, with what none takes or what lies at the edge.
var oddNames = []string{"state", "timeout", "limit", "cursor", "ttl", "force", "kill", "tail", "since", "port", "command", "version", "instance_id", "from_event_id", "region", "include_deleted",
	"include_leases", "summary", "metadata.k", "metadata.", "org_slug", "updated_after", "sort_by", "order", "signal", "force_stop", "container", "stream", "follow", "previous", "timestamps", "limit_bytes", "tty", "stdin", "offers",
	"host_only", "app", "machine", "reference", "cri"}

var oddTexts = []string{"", "x", "-1", "0", "1", "99999999999999999999", "true", "maybe", "\x00", "💥", "%", "..", "2026-13-45T99:99:99Z", "1.", "1.x", "-1.x", ",,,", "started,flying", "1e9", "9223372036854775807", "settled", strings.Repeat("z", 3000)}

// mutate returns body with one thing wrong, or several.
func mutate(r *rand.Rand, body string) string {
	if body == "" {
		body = `{"a":1}`
	}
	switch r.IntN(8) {
	case 0: // cut
		return body[:r.IntN(len(body)+1)]
	case 1: // one byte
		b := []byte(body)
		b[r.IntN(len(b))] = byte(r.IntN(256))
		return string(b)
	case 2: // deep
		n := 1 + r.IntN(20000)
		return strings.Repeat(`{"config":`, n) + "1" + strings.Repeat("}", r.IntN(n+1))
	case 3: // another thing altogether
		b, _ := json.Marshal(oddValues[r.IntN(len(oddValues))])
		return string(b)
	case 4: // two of them
		return body + body
	}
	var v any
	if json.Unmarshal([]byte(body), &v) != nil {
		return body
	}
	for range 1 + r.IntN(2) {
		v = spoil(r, v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return body
	}
	return string(b)
}

// spoil returns v with an odd value somewhere in it.
func spoil(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 || r.IntN(8) == 0 {
			break
		}
		keys := []string{}
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		k := keys[r.IntN(len(keys))]
		v = maps.Clone(v)
		v[k] = spoil(r, v[k])
		return v
	case []any:
		if len(v) == 0 || r.IntN(4) == 0 {
			break
		}
		i := r.IntN(len(v))
		v = slices.Clone(v)
		v[i] = spoil(r, v[i])
		return v
	}
	return oddValues[r.IntN(len(oddValues))]
}

// bodyOf finds the body of a route by how its path ends.
func bodyOf(method, path string) string {
	best := ""
	for ending := range wellFormed {
		m, end, _ := strings.Cut(ending, " ")
		if m == method && strings.HasSuffix(path, end) && len(ending) > len(best) {
			best = ending
		}
	}
	return wellFormed[best]
}

// badRequest makes a request of a route with something wrong in path, query, header or body. Some are right by chance.
func badRequest(r *rand.Rand, method, pattern string, id gondola.MachineID) (req *http.Request, sent string) {
	path := parameterRE.ReplaceAllStringFunc(pattern, func(name string) string {
		switch odd := r.IntN(6) == 0; {
		case odd:
			return url.PathEscape(oddTexts[1+r.IntN(len(oddTexts)-1)])
		case name == "{app}":
			return "shop"
		case name == "{id}":
			return string(id)
		}
		return "none"
	})
	q := url.Values{}
	for range r.IntN(3) {
		q.Add(oddNames[r.IntN(len(oddNames))], oddTexts[r.IntN(len(oddTexts))])
	}
	query := q.Encode()
	if r.IntN(20) == 0 {
		query = "%zz&;=&" + query
	}
	if method != "GET" {
		sent = mutate(r, bodyOf(method, pattern))
	}
	req = httptest.NewRequest(method, "http://gondola/", strings.NewReader(sent))
	req.URL.RawPath, req.URL.RawQuery = path, query
	req.URL.Path, _ = url.PathUnescape(path)
	if r.IntN(8) == 0 {
		req.Header.Set("fly-machine-lease-nonce", oddTexts[r.IntN(len(oddTexts))])
	}
	return req, sent
}

var parameterRE = regexp.MustCompile(`\{\w+\}`)

// TestMalformed_NothingBreaksTheServer sends each route requests with something wrong, many at once. Those that are right may do what they say.
func TestMalformed_NothingBreaksTheServer(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{Total: gondola.Resources{CPUMillis: 1000, MemoryBytes: 1 << 30}})
	p.NewApp("shop")
	m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Config: gondola.Config{Image: "test/app"}, SkipLaunch: true})
	if err != nil {
		t.Fatal(err)
	}
	h := api.New(api.Config{Server: p.Market, Auth: p.Auth, Version: "test", Log: discard})
	idle := runtime.NumGoroutine()
	var mu sync.Mutex
	statuses := map[int]int{}
	send := func(route, n int, method, pattern string) {
		req, sent := badRequest(rand.New(rand.NewPCG(*seed, uint64(route)<<32|uint64(n))), method, pattern, m.ID)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		req.Header.Set("Authorization", "Bearer "+p.Auth.Root())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req.WithContext(ctx))
		mu.Lock()
		statuses[w.Code]++
		mu.Unlock()
		about := fmt.Sprintf("request %d of %s %s: %.200s %.2000s = %d %.2000s", n, method, pattern, req.URL, sent, w.Code, w.Body)
		switch {
		case w.Code >= 500 && w.Code != 501:
			t.Error(about)
		case w.Code >= 400 && w.Body.Len() > 4096:
			t.Errorf("a refusal of %d bytes: %s", w.Body.Len(), about)
		case w.Code >= 400 && !json.Valid(w.Body.Bytes()):
			t.Errorf("a refusal that is not JSON: %s", about)
		}
	}
	const atOnce = 16 // most of the time is that of requests that wait for what does not come
	for route, r := range api.RouteTable() {
		method, pattern := r[0], r[1]
		if method == "DELETE" && pattern == "/v1/apps/{app}" {
			continue // it would work; its path is tried as GET
		}
		var next atomic.Int64
		var wg sync.WaitGroup
		for range atOnce {
			wg.Go(func() {
				for n := int(next.Add(1)) - 1; n < *malformed && !t.Failed(); n = int(next.Add(1)) - 1 {
					send(route, n, method, pattern)
				}
			})
		}
		wg.Wait()
	}
	if statuses[400]+statuses[422] < statuses[200] {
		t.Errorf("answers by status = %v: too few of the requests were bad", statuses)
	}
	t.Logf("answers by status: %v", statuses)
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > idle+50; {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%.6000s", runtime.NumGoroutine(), idle, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
	if _, err := p.Get(t.Context(), m.Ref()); err != nil {
		t.Errorf("the machine of before: %v", err)
	}
}

// TestMalformed_RefusalsNameFieldValueAndRange looks at what people read.
func TestMalformed_RefusalsNameFieldValueAndRange(t *testing.T) {
	s := newServer(t)
	m := s.started(app)
	config := func(c string) string { return `{"skip_launch":true,"config":{"image":"test/app",` + c + `}}` }
	const machines = "/v1/apps/shop/machines"
	for _, c := range []struct{ method, path, body, field, value, use string }{
		{"POST", machines, config(`"guest":{"cpus":"two"}`), "config.guest.cpus", "string", "a whole number"},
		{"POST", machines, config(`"guest":{"cpus":99999999999999999999}`), "config.guest.cpus", "99999999999999999999", "from -9223372036854775808 to 9223372036854775807"},
		{"POST", machines, config(`"guest":{"cpus":-1,"memory_mb":256}`), "cpus", "-1", "1 or more"},
		{"POST", machines, config(`"guest":{"cpus":1,"cpu_kind":"huge","memory_mb":256}`), "cpu_kind", "huge", "shared"},
		{"POST", machines, config(`"env":["A=b"]`), "config.env", "array", "an object"},
		{"POST", machines, config(`"restart":{"policy":"sometimes"}`), "restart", "sometimes", "on-failure"},
		{"POST", machines, config(`"services":[{"internal_port":70000,"protocol":"tcp"}]`), "internal_port", "70000", "65535"},
		{"POST", machines, config(`"stop_config":{"timeout":"soon"}`), "", "soon", ""},
		{"POST", machines, config(`"auto_destroy":"yes"`), "config.auto_destroy", "string", "true or false"},
		{"POST", machines, `{"lease_ttl":100000000,"skip_launch":true,"config":{"image":"test/app"}}`, "lease_ttl", "100000000", "86400"},
		{"POST", "/v1/apps", `{"name":"Shop"}`, "app name", "Shop", "lower-case"},
		{"POST", "/v1/apps", `{"name":"x","org_slug":"Not One"}`, "org_slug", "Not One", "1 to 63"},
		{"POST", "/v1/apps", `{"name":"x","network":"a/b"}`, "network", "a/b", "1 to 80"},
		{"GET", m + "/wait?timeout=-1s", "", "timeout", "-1s", "10s"},
		{"GET", machines + "?limit=-1", "", "limit", "-1", "0 or more"},
		{"GET", machines + "?include_deleted=maybe", "", "include_deleted", "maybe", "true or false"},
		{"GET", machines + "?cursor=x", "", "cursor", "x", "fly-next-cursor"},
		{"POST", m + "/lease", `{"ttl":100000}`, "ttl", "100000", "1 to 86400"},
		{"POST", "/v1/apps/shop/volumes", `{"name":"data","size_gb":-5}`, "size_gb", "-5", "1"},
		{"PUT", "/v1/apps/shop/volumes/vol_x/extend", `{"size_gb":-5}`, "size_gb", "", "GB"},
		{"GET", "/v1/gondola/apps/shop/machines/x/dial?port=70000", "", "port", "70000", "1 to 65535"},
		{"POST", "/v1/gondola/tokens", `{"caveats":{"machines":["zzz"]}}`, "caveats.machines", "zzz", "14 hex"},
	} {
		got := s.call(c.method, c.path, c.body)
		var said struct{ Error string }
		if err := json.Unmarshal([]byte(got.body), &said); err != nil || got.status != 400 && got.status != 422 {
			t.Errorf("%s %s %s = %d %s, want 400 or 422", c.method, c.path, c.body, got.status, got.body)
			continue
		}
		for what, want := range map[string]string{"field": c.field, "value": c.value, "range": c.use} {
			if !strings.Contains(said.Error, want) {
				t.Errorf("%s %s %s: the refusal lacks the %s %q: %s", c.method, c.path, c.body, what, want, said.Error)
			}
		}
	}
}
