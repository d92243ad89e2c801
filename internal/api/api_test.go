package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/api"
	"gondola/internal/auth"
	"gondola/internal/gondolatest"
)

// server is a platform whose API is spoken to by hand.
type server struct {
	*gondolatest.Platform
	t       *testing.T
	headers http.Header // sent with every request
	inside  string      // URL of the listener for pilots
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{Platform: gondolatest.New(t, gondolatest.Options{}), t: t}
	s.NewApp("shop")
	s.inside = gondolatest.Serve(t, auth.FromMachines(s.Handler))
	return s
}

type answer struct {
	status int
	header http.Header
	body   string
}

// as sends a request with a token; body may be empty.
func (s *server) as(token, method, path, body string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range s.headers {
		req.Header[k] = v
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, strings.TrimSpace(string(b))}
}

func (s *server) call(method, path, body string) answer {
	s.t.Helper()
	return s.as(s.Auth.Root(), method, path, body)
}

// wants calls and compares; want is a regular expression of the body.
func (s *server) wants(method, path, body string, status int, want string) answer {
	s.t.Helper()
	got := s.call(method, path, body)
	if got.status != status || !regexp.MustCompile(want).MatchString(got.body) {
		s.t.Errorf("%s %s %s = %d %s, want %d %s", method, path, body, got.status, got.body, status, want)
	}
	return got
}

func (s *server) machine(body string) string {
	s.t.Helper()
	got := s.call("POST", "/v1/apps/shop/machines", body)
	var m gondola.Machine
	if err := json.Unmarshal([]byte(got.body), &m); err != nil || got.status != 200 {
		s.t.Fatalf("create %s = %d %s", body, got.status, got.body)
	}
	return "/v1/apps/shop/machines/" + string(m.ID)
}

func (s *server) started(body string) string {
	s.t.Helper()
	m := s.machine(body)
	s.wants("GET", m+"/wait?timeout=20", "", 200, `"state":"started"`)
	return m
}

const app = `{"config":{"image":"test/app","init":{"cmd":["trap"]}}}`

func TestAccess_NoRouteWorksWithoutAToken(t *testing.T) {
	s := newServer(t)
	fill := strings.NewReplacer("{app}", "shop", "{id}", "00000000000000", "{org}", "personal")
	routes := api.RouteTable()
	if len(routes) < 76 {
		t.Fatalf("only %d routes", len(routes))
	}
	for _, r := range append(routes, [2]string{"GET", "/"}, [2]string{"GET", "/v1/nothing"}, [2]string{"PATCH", "/v1/apps"}) {
		path := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(fill.Replace(r[1]), "x")
		for _, token := range []string{"", "gdl.abc.def", auth.New().Root()} {
			if got := s.as(token, r[0], path, ""); got.status != http.StatusUnauthorized || !strings.Contains(got.body, `"error"`) {
				t.Errorf("%s %s with token %q = %d %s, want 401", r[0], path, token, got.status, got.body)
			}
		}
	}
}

func TestAccess_TokensReachNoFurtherThanTheirCaveats(t *testing.T) {
	s := newServer(t)
	s.NewApp("blog")
	m := s.machine(app)
	mint := func(c gondola.Caveats) string {
		tok, err := s.Auth.Mint(c)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	for name, c := range map[string]struct {
		token                     string
		read, write, other, whole int
	}{
		"read-only":        {mint(gondola.Caveats{ReadOnly: true}), 200, 403, 200, 200},
		"of this app":      {mint(gondola.Caveats{Apps: []gondola.AppName{"shop"}}), 200, 200, 403, 403},
		"of another app":   {mint(gondola.Caveats{Apps: []gondola.AppName{"blog"}}), 403, 403, 200, 403},
		"of this org":      {mint(gondola.Caveats{Org: "personal"}), 200, 200, 200, 403},
		"of another org":   {mint(gondola.Caveats{Org: "acme"}), 403, 403, 403, 403},
		"read of this app": {mint(gondola.Caveats{Apps: []gondola.AppName{"shop"}, ReadOnly: true}), 200, 403, 403, 403},
	} {
		for what, got := range map[string][2]int{
			"GET a machine":   {s.as(c.token, "GET", m, "").status, c.read},
			"POST metadata":   {s.as(c.token, "POST", m+"/metadata/k", `{"value":"v"}`).status, c.write},
			"GET another app": {s.as(c.token, "GET", "/v1/apps/blog/machines", "").status, c.other},
			"GET images":      {s.as(c.token, "GET", "/v1/gondola/images", "").status, c.whole},
		} {
			if status := got[0]; status != got[1] && !(status == 204 && got[1] == 200) {
				t.Errorf("token %s: %s = %d, want %d", name, what, got[0], got[1])
			}
		}
	}
	list := s.as(mint(gondola.Caveats{Apps: []gondola.AppName{"blog"}}), "GET", "/v1/orgs/personal/machines", "")
	apps := s.as(mint(gondola.Caveats{Apps: []gondola.AppName{"blog"}}), "GET", "/v1/apps?org_slug=personal", "")
	if strings.Contains(list.body, "shop") || strings.Contains(apps.body, "shop") || !strings.Contains(apps.body, "blog") {
		t.Errorf("a token of blog sees machines %s and apps %s", list.body, apps.body)
	}
	for _, x := range []string{`{"id":"0123456789abcd"}`, `{"network_id":7}`, `{"network":"other"}`} {
		s.wants("POST", "/v1/apps/shop/machines", `{"config":{"image":"test/app"},"gondola":`+x+`}`, 403, "chosen by the server")
	}
}

func TestErrors_HaveTheStatusAndWordsOfTheWire(t *testing.T) {
	s := newServer(t)
	m := s.started(app)
	huge := `{"name":"n","region":"local","config":{"image":"test/app","guest":{"cpu_kind":"performance","cpus":16,"memory_mb":32768}}}`
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/apps/nope", "", 404, `"error":"Could not find App \\"nope\\""`},
		{"GET", "/v1/apps/nope/machines", "", 404, `Could not find App`},
		{"POST", "/v1/apps/nope/machines", app, 404, `Could not find App`},
		{"GET", "/v1/apps/shop/machines/00000000000000", "", 404, `"error":"not_found: machine not found`},
		{"POST", "/v1/apps", `{"app_name":"shop","org_slug":"personal"}`, 422, `"status":"name_taken"`},
		{"POST", "/v1/apps", `{"app_name":"No Good"}`, 422, `lower-case`},
		{"POST", "/v1/apps/shop/machines", huge, 422, `"error":"no worker in local has 16 CPUs and 32768 MB free","status":"insufficient_capacity","details":.*"refusals":\[\{"worker":"local"`},
		{"POST", "/v1/apps/shop/machines", `{"region":"nrt","config":{"image":"test/app"}}`, 404, `there is local`},
		{"POST", "/v1/apps/shop/machines", `{"config":{}}`, 422, `config.image is missing`},
		{"POST", "/v1/apps/shop/machines", "{\"config\":\n {\"image\" \"x\"}}", 400, `line 2, column 11`},
		{"POST", "/v1/apps/shop/machines", `{"config":{"image":7}}`, 400, `config.image must not be a JSON number: use a string`},
		{"POST", "/v1/apps/shop/machines", `[]`, 400, `JSON array`},
		{"GET", m + "/wait?state=stopped&timeout=1", "", 408, `"error":"deadline_exceeded: machine failed to reach desired state, stopped, currently started"`},
		{"GET", m + "/wait?state=flying", "", 400, `flying`},
		{"GET", m + "/wait?timeout=soon", "", 400, `timeout`},
		{"DELETE", m, "", 412, `"error":"failed_precondition: `},
		{"POST", m, `{"current_version":"01ARZ3NDEKTSV4RRFFQ69G5FAV","config":{"image":"test/app"}}`, 409, `"error":"aborted: `},
		{"PATCH", m + "/metadata", `{"machine_version":"01ARZ3NDEKTSV4RRFFQ69G5FAV","metadata":{"a":"b"}}`, 412, `failed_precondition`},
		{"GET", m + "/metadata/none", "", 404, `none`},
		{"POST", m + "/signal", `{"signal":"SIGNOPE"}`, 400, `SIGNOPE`},
		{"POST", m + "/restart?signal=SIGNOPE", "", 400, `SIGNOPE`},
		{"POST", m + "/lease", `{"ttl":-1}`, 422, `"message":"ttl -1: use 1 to 86400 seconds","code":"invalid","status":"error"`},
		{"POST", m + "/lease?ttl=soon", "", 400, `ttl`},
		{"DELETE", m + "/lease", "", 422, `fly-machine-lease-nonce`},
		{"GET", "/v1/apps/shop/secretkeys", "", 501, `secret keys are not part`},
		{"GET", "/v1/nothing", "", 404, `not part of this API`},
	} {
		s.wants(c.method, c.path, c.body, c.status, c.want)
	}
	got := s.call("POST", "/v1/apps/shop/machines/x/signal", `{"a":"`+strings.Repeat("x", 2<<20)+`"}`)
	if got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a signal of 2 MB = %d %s", got.status, got.body)
	}
}

func TestTraps_OfTheWire(t *testing.T) {
	s := newServer(t)
	s.wants("POST", "/v1/apps?wait=true", `{"name":"two","org_slug":"personal","app_role_id":"x","unknown":1}`, 201, `"name":"two".*"created_at":\d{13}`)
	s.wants("GET", "/v1/apps/two/machines/", "", 200, `^\[\]$`)
	s.wants("GET", "/v1/apps/two/", "", 200, `"status":"pending"`)
	s.wants("GET", "/v1/apps?org_slug=personal&limit=1", "", 200, `^\{"apps":\[\{[^}]*\}[^}]*\}\],"next_cursor":"0.shop","total_apps":2\}$`)
	s.wants("GET", "/v1/apps?org_slug=nobody", "", 200, `^\{"apps":\[\],"total_apps":0\}$`)
	s.wants("GET", "/v1/platform/regions", "", 200, `^\{"Regions":\[\{"code":"local".*"Nearest":"local"\}$`)
	s.wants("POST", "/v1/platform/placements", `{"org_slug":"personal"}`, 200, `^\{"regions":\[\{"region":"local","count":8,"concurrency":1\}\]\}$`)

	m := s.started(`{"config":{"image":"test/app","init":{"cmd":["trap"]},"size":"shared-cpu-1x","force_instance_key":null,
		"stop_config":{"timeout":"3s","signal":"SIGTERM"},"services":[{"internal_port":80,"autostop":true,"ports":[]}],"checks":{"x":{"type":"tcp","port":80,"interval":15000000000}}},"skip_secrets":false}`)
	s.wants("GET", m, "", 200, `"timeout":"3s"`)
	s.wants("GET", m, "", 200, `"autostop":true`)
	s.wants("GET", m, "", 200, `"interval":"15s"`)
	s.wants("GET", m, "", 200, `"host_status":"ok"`)
	s.wants("GET", m+"?version=01ARZ3NDEKTSV4RRFFQ69G5FAV", "", 200, `"state":"replaced"`)
	s.wants("GET", m+"/wait?state=stopped&state=started,failed&timeout=5", "", 200, `"ok":true,"state":"started"`)
	s.wants("GET", m+"/wait?state=settled&instance_id=", "", 200, `"ok":true`)
	for _, cmd := range []string{`"cmd":"/program print 'two words' \"and more\""`, `"cmd":["/program","print","two words","and more"]`, `"command":["/program","print","two words","and more"]`} {
		s.wants("POST", m+"/exec", `{`+cmd+`,"machine":false,"timeout":5}`, 200, `"exit_code":0,"stdout":"two words\\nand more\\n","stderr":""`)
	}
	s.wants("POST", m+"/exec", `{}`, 400, `command is missing`)
	s.wants("PUT", m+"/metadata", `{"metadata":{"a":"1","b":"2"}}`, 204, `^$`)
	s.wants("PATCH", m+"/metadata", `{"metadata":{"a":null,"b":"","c":"3"}}`, 204, `^$`)
	s.wants("POST", m+"/metadata/d", `{"value":"4"}`, 204, `^$`)
	s.wants("GET", m+"/metadata", "", 200, `^\{"c":"3","d":"4"\}$`)
	s.wants("GET", m+"/metadata/d", "", 200, `^\{"value":"4"\}$`)
	s.wants("DELETE", m+"/metadata/d", "", 204, `^$`)
	s.wants("GET", "/v1/apps/shop/machines?metadata.c=3&state=started&region=local", "", 200, `^\[\{"id"`)
	s.wants("GET", "/v1/apps/shop/machines?metadata.c=4", "", 200, `^\[\]$`)
	s.wants("GET", m+"/events?limit=1", "", 200, `^\[\{"id":"[0-9A-Z]{26}"`)
	s.wants("GET", m+"/ps?sort_by=pid&order=desc", "", 200, `"listen_sockets":\[`)
	s.wants("POST", m+"/restart?force_stop=false&timeout=2s&signal=SIGTERM", "", 200, `^\{"ok":true\}$`)
	s.wants("GET", m+"/wait?timeout=20", "", 200, `started`)
	for _, body := range []string{`{"signal":12}`, `{"signal":"USR2"}`} { // a number, as fly-go's Kill sends
		s.wants("POST", m+"/signal", body, 200, `"ok":true`)
		s.wants("GET", m+"/wait?state=stopped&timeout=20", "", 200, `stopped`)
		s.wants("POST", m+"/start", "", 200, `^\{"previous_state":"stopped","migrated":false,"new_host":""\}$`)
		s.wants("GET", m+"/wait?timeout=20", "", 200, `started`)
	}
	got := s.wants("GET", m, "", 200, `"exited_at":"20\d\d-`) // RFC 3339, never a number
	if len(got.header.Get("fly-request-id")) != 26 {
		t.Errorf("fly-request-id = %q", got.header.Get("fly-request-id"))
	}
	s.wants("DELETE", m+"?kill=false", "", 412, `precondition`)
	s.wants("DELETE", m+"?kill=true", "", 200, `"ok":true`)
	other := s.machine(app)
	s.wants("DELETE", other+"?force=true", "", 200, `"ok":true`)
	s.wants("DELETE", "/v1/apps/two", "", 202, ``)
	s.wants("GET", "/v1/gondola", "", 200, `"version":"test","contracts":\["watch","logs","streams","files","containers","sizes","services","policies","images","ask","stats","volumes","suspend"\]`)
}

// What GET answers is no body of PUT: taken for one it would delete what it says.
func TestMetadata_IsReplacedOnlyByABodyThatHasIt(t *testing.T) {
	s := newServer(t)
	m := s.machine(`{"skip_launch":true,"config":{"image":"test/app","metadata":{"a":"1","b":"2"}}}`) + "/metadata"
	for _, body := range []string{`{"a":"1","b":"2"}`, ``, `null`, `{}`, `{"metadata":null}`} {
		s.wants("PUT", m, body, 400, `metadata is missing: send {\\"metadata\\":{`)
		s.wants("GET", m, "", 200, `^\{"a":"1","b":"2"\}$`)
	}
	s.wants("PUT", m, `{"metadata":{"b":"3"}}`, 204, `^$`)
	s.wants("GET", m, "", 200, `^\{"b":"3"\}$`)
	s.wants("PUT", m, `{"metadata":{}}`, 204, `^$`)
	s.wants("GET", m, "", 200, `^\{\}$`)
}

func TestSignal_NullIsAsAbsent(t *testing.T) {
	s := newServer(t)
	m := s.started(`{"config":{"image":"test/app","init":{"cmd":["trap"]},"stop_config":{"signal":null,"timeout":null}}}`)
	s.wants("POST", m+"/signal", `{"signal":null}`, 400, `signal is missing`)
	s.wants("POST", m+"/stop", `{"signal":null,"timeout":null}`, 200, `ok`)
	s.wants("GET", m+"/wait?state=stopped&timeout=20", "", 200, `stopped`)
}

func TestLease_AsTheWireHasIt(t *testing.T) {
	s := newServer(t)
	m := s.started(app)
	id := m[strings.LastIndex(m, "/")+1:]
	s.wants("GET", m+"/lease", "", 404, `"error":"not_found: nobody holds`)
	got := s.wants("POST", m+"/lease?ttl=13", `{"description":"deploy"}`, 201, `^\{"status":"success","data":\{"nonce":"[0-9a-f]{12}","expires_at":\d{10},"owner":"[^"]+","description":"deploy","version":"[0-9A-Z]{26}"\}\}$`)
	nonce := regexp.MustCompile(`"nonce":"(\w+)"`).FindStringSubmatch(got.body)[1]
	held := `machine ID ` + id + ` lease currently held by .+, expires at 20\d\d-`
	s.wants("POST", m+"/lease", "", 409, `"message":"`+held+`.*"code":"invalid","status":"error"`)
	s.wants("POST", m+"/stop", `{"signal":"SIGTERM","timeout":"5s"}`, 409, `"error":"aborted: `+held)
	s.wants("GET", m+"/lease", "", 200, `"nonce":"`+nonce+`"`)
	s.wants("GET", m, "", 200, `"id":"`+id+`"`)
	if one := s.call("GET", m, ""); strings.Contains(one.body, `"lease"`) {
		t.Errorf("a machine tells of its lease unasked: %s", one.body)
	}
	for _, path := range []string{m, "/v1/apps/shop/machines"} {
		if got := s.wants("GET", path+"?include_leases=true", "", 200, `"lease":\{"expires_at":\d+,"owner":"[^"]+","description":"deploy"\}`); strings.Contains(got.body, nonce) {
			t.Errorf("GET %s tells the nonce to whoever reads: %s", path, got.body)
		}
	}
	s.headers = http.Header{"Fly-Machine-Lease-Nonce": {nonce}}
	s.wants("POST", m+"/lease?ttl=13", "", 201, `"nonce":"`+nonce+`"`)
	s.wants("POST", m+"/cordon", "", 200, `^\{"ok":true\}$`)
	s.wants("POST", m+"/stop", `{"signal":"SIGTERM","timeout":"5s"}`, 200, `ok`)
	s.wants("DELETE", m+"/lease", "", 200, `^\{"status":"success","data":\{"ok":true\}\}$`)
	s.wants("POST", m+"/start", "", 409, `was given back or taken over`)
	s.headers = nil
	s.wants("GET", m, "", 200, `"cordoned":true`)
	s.wants("POST", m+"/uncordon", "", 200, `ok`)
	s.wants("GET", m+"/versions", "", 200, `^\[\{"version":"[0-9A-Z]{26}","user_config":\{`)
	s.wants("POST", "/v1/apps/shop/machines", `{"name":"held","skip_launch":true,"lease_ttl":60,"config":{"image":"test/app"}}`, 200, `"nonce":"[0-9a-f]{12}"`)
	s.wants("POST", "/v1/apps/shop/machines", `{"lease_ttl":-5,"config":{"image":"test/app"}}`, 422, `"error":"lease_ttl -5: use`)
}

func TestList_Pages(t *testing.T) {
	s := newServer(t)
	var want, got []string
	for range 5 {
		m := s.machine(`{"skip_launch":true,"config":{"image":"test/app"}}`)
		want = append(want, m[strings.LastIndex(m, "/")+1:])
	}
	path := "/v1/apps/shop/machines?limit=2"
	for cursor := ""; ; {
		a := s.call("GET", path+cursor, "")
		var page []gondola.Machine
		if err := json.Unmarshal([]byte(a.body), &page); err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			got = append(got, string(m.ID))
		}
		next := a.header.Get("fly-next-cursor")
		if next == "" {
			break
		}
		cursor = "&cursor=" + next
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("pages of 2 = %v, want %v", got, want)
	}
	// The cursor leads on where those before it are gone.
	a := s.call("GET", path, "")
	next := a.header.Get("fly-next-cursor")
	for _, id := range want[:2] {
		s.wants("DELETE", "/v1/apps/shop/machines/"+id+"?force=true", "", 200, `ok`)
		s.wants("GET", "/v1/apps/shop/machines/"+id+"/wait?state=destroyed", "", 200, `ok`)
	}
	s.wants("GET", path+"&cursor="+next, "", 200, `"id":"`+want[2]+`".*"id":"`+want[3]+`"`)
	s.wants("GET", "/v1/orgs/personal/machines?limit=1", "", 200, `"app_name":"shop".*"next_cursor":"[0-9]{19}\.[0-9a-f]{14}"`)
}

func TestList_OfSeveralStates(t *testing.T) {
	s := newServer(t)
	id := func(m string) string { return m[strings.LastIndex(m, "/")+1:] }
	const asleep = `{"skip_launch":true,"config":{"image":"test/app"}}`
	created, started, gone := id(s.machine(asleep)), id(s.started(app)), s.machine(asleep)
	s.wants("DELETE", gone, "", 200, `ok`)
	s.wants("GET", gone+"/wait?state=destroyed&timeout=20", "", 200, `ok`)
	for query, want := range map[string][]string{
		"state=created":                      {created},
		"state=created,started":              {created, started},
		"state=started,%20created":           {created, started},
		"state=created&state=started":        {created, started},
		"state=stopped,suspended":            nil,
		"state=started,destroyed":            {started, id(gone)},
		"state=created&include_deleted=true": {created},
		"state=,":                            {created, started},
	} {
		for _, path := range []string{"/v1/apps/shop/machines?", "/v1/orgs/personal/machines?"} {
			got := s.call("GET", path+query, "")
			for _, one := range []string{created, started, id(gone)} {
				if got.status != 200 || strings.Contains(got.body, `"id":"`+one+`"`) != slices.Contains(want, one) {
					t.Errorf("GET %s%s = %d, and has %s: %t, want %t", path, query, got.status, one, strings.Contains(got.body, one), slices.Contains(want, one))
				}
			}
		}
	}
	s.wants("GET", "/v1/apps/shop/machines?state=started,flying", "", 400, `query parameter state: .*flying`)
}

// Who takes the name of an App that is gone sees nothing of what was in it.
func TestApps_ANameTakenAgainShowsNothingOfBefore(t *testing.T) {
	s := newServer(t)
	mine, _ := s.Auth.Mint(gondola.Caveats{Org: "acme"})
	theirs, _ := s.Auth.Mint(gondola.Caveats{Org: "rival"})
	as := func(token, method, path, body string, status int, want string) answer {
		t.Helper()
		got := s.as(token, method, path, body)
		if got.status != status || !regexp.MustCompile(want).MatchString(got.body) {
			t.Errorf("%s %s = %d %s, want %d %s", method, path, got.status, got.body, status, want)
		}
		return got
	}
	as(mine, "POST", "/v1/apps", `{"app_name":"web","org_slug":"acme"}`, 201, ``)
	var m gondola.Machine
	made := as(mine, "POST", "/v1/apps/web/machines", `{"skip_launch":true,"config":{"image":"test/app","env":{"KEY":"mine"}}}`, 200, ``)
	if err := json.Unmarshal([]byte(made.body), &m); err != nil {
		t.Fatal(err)
	}
	var v gondola.Volume
	if err := json.Unmarshal([]byte(as(mine, "POST", "/v1/apps/web/volumes", `{"name":"data","size_gb":1}`, 200, ``).body), &v); err != nil {
		t.Fatal(err)
	}
	as(mine, "DELETE", "/v1/apps/web", "", 202, ``)
	one := "/v1/apps/web/machines/" + string(m.ID)
	as(theirs, "POST", "/v1/apps", `{"app_name":"web","org_slug":"rival"}`, 201, ``)
	as(theirs, "GET", "/v1/apps/web/machines?include_deleted=true", "", 200, `^\[\]$`)
	as(theirs, "GET", "/v1/apps/web/machines?state=destroyed", "", 200, `^\[\]$`)
	as(theirs, "GET", "/v1/orgs/rival/machines?include_deleted=true", "", 200, `"machines":\[\]`)
	for _, of := range []string{"", "/versions", "/events"} {
		as(theirs, "GET", one+of, "", 404, `machine not found`)
	}
	as(theirs, "GET", "/v1/apps/web/volumes/"+string(v.ID), "", 404, `volume not found`)
	as(theirs, "POST", "/v1/apps/web/machines", `{"skip_launch":true,"config":{"image":"test/app"}}`, 200, ``)
	as(theirs, "GET", "/v1/apps/web/machines?include_deleted=true", "", 200, `^\[\{"id":"[^{]*"state":"created"`)
}

func TestUpdate_WithoutRoomIsAConflict(t *testing.T) {
	s := newServer(t)
	m := s.machine(`{"skip_launch":true,"config":{"image":"test/app","guest":{"cpu_kind":"performance","cpus":8,"memory_mb":16384}}}`)
	s.call("POST", m+"/stop", "")
	if a := s.call("POST", m+"/start", ""); a.status == 200 {
		s.wants("GET", m+"/wait?timeout=20", "", 200, `started`)
	}
	s.wants("POST", m, `{"config":{"image":"test/app","guest":{"cpu_kind":"performance","cpus":16,"memory_mb":32768}}}`, 409,
		`"error":"aborted: could not reserve resource for machine: `)
}

func TestWorker_AloneServesMachinesAndNotApps(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	s := &server{Platform: p, t: t}
	s.URL = gondolatest.Serve(t, api.New(api.Config{Server: p.Workers[0].Worker, Auth: p.Auth}))
	s.wants("GET", "/v1/apps", "", 501, `one worker`)
	s.wants("GET", "/v1/platform/regions", "", 501, `one worker`)
	s.wants("POST", "/v1/gondola/ask", `{"requests":{"cpu_millis":1000,"memory_bytes":1000}}`, 200, `"bids":\[\{"worker":"local"`)
	m := s.machine(app)
	s.wants("GET", m+"/wait?timeout=20", "", 200, `started`)
	s.wants("GET", "/v1/orgs/personal/machines", "", 200, `"app_name":"shop"`)
}

// A name that is .. leads to nothing above it: a client that follows redirects would delete the App instead of a secret.
func TestPaths_WithDotsLeadNowhere(t *testing.T) {
	s := newServer(t)
	m := s.machine(`{"skip_launch":true,"config":{"image":"test/app"}}`)
	for _, path := range []string{"/v1/apps/shop/secrets/..", "/v1/apps/shop/volumes/../", m + "/metadata/..", m + "/metadata/k/../..", m + "/."} {
		s.wants("DELETE", path, "", 404, `not part of this API`)
		s.wants("GET", path, "", 404, `not part of this API`)
	}
	s.wants("GET", "/v1/apps/shop", "", 200, `"name":"shop"`)
	s.wants("GET", m, "", 200, `"state":"created"`)
	s.wants("POST", m+"/metadata/%2E%2E", `{"value":"v"}`, 204, `^$`) // escaped it is a name
	s.wants("GET", m+"/metadata", "", 200, `^\{"\.\.":"v"\}$`)
}

// broken panics.
type broken struct{ gondola.Platform }

func TestPanic_Is500AndTheServerGoesOn(t *testing.T) {
	h := api.New(api.Config{Server: broken{}, Auth: yes{}})
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/apps/shop/machines", nil))
		if w.Code != 500 || !strings.Contains(w.Body.String(), w.Header().Get("fly-request-id")) {
			t.Errorf("panic = %d %s", w.Code, w.Body)
		}
	}
}

// yes lets everybody in.
type yes struct{}

func (yes) Authenticate(*http.Request) (auth.Principal, error) { return auth.Principal{}, nil }

// odd answers with an error that has no kind.
type odd struct{ gondola.Platform }

func (odd) ListImages(context.Context) ([]gondola.ImageInfo, error) {
	return nil, errors.New("disk on fire")
}

func TestErrors_WithoutAKindAre500(t *testing.T) {
	w := httptest.NewRecorder()
	api.New(api.Config{Server: odd{}, Auth: yes{}}).ServeHTTP(w, httptest.NewRequest("GET", "/v1/gondola/images", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), "disk on fire") {
		t.Errorf("answer = %d %s", w.Code, w.Body)
	}
}

func TestWatch_BeginsAtOnceAndSaysThatItIsAlive(t *testing.T) {
	s := newServer(t)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/v1/gondola/watch", nil)
	req.Header.Set("Authorization", "Bearer "+s.Auth.Root())
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("the watch began after %s", took)
	}
	lines := json.NewDecoder(resp.Body)
	for {
		var ch gondola.Change
		if err := lines.Decode(&ch); err != nil {
			t.Fatal(err)
		}
		if ch.Heartbeat {
			return
		}
	}
}

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		`ls -l /`:               {"ls", "-l", "/"},
		`sh -c 'echo "a b"; x'`: {"sh", "-c", `echo "a b"; x`},
		`a\ b "c\"d" "e\f" ''`:  {"a b", `c"d`, `e\f`, ""},
		`x'y'"z"`:               {"xyz"},
		"  ":                    nil,
	} {
		if got, err := api.Words(line); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("words(%q) = %q, %v, want %q", line, got, err, want)
		}
	}
	if _, err := api.Words(`echo "open`); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("an open quotation = %v", err)
	}
}

// timed notes the deadline in force.
type timed struct {
	*httptest.ResponseRecorder
	deadline time.Time
	during   time.Time // of the last write
}

func (w *timed) SetWriteDeadline(t time.Time) error { w.deadline = t; return nil }
func (w *timed) Write(b []byte) (int, error) {
	w.during = w.deadline
	return w.ResponseRecorder.Write(b)
}

// A program may be silent for as long as it likes: only a write has a deadline.
func TestLogs_SilenceHasNoDeadline(t *testing.T) {
	w := &timed{ResponseRecorder: httptest.NewRecorder()}
	if _, err := api.Flushing(w).Write([]byte("line\n")); err != nil || w.during.IsZero() || !w.deadline.IsZero() {
		t.Errorf("the write had deadline %v, the silence behind it has %v (%v); want one and none", w.during, w.deadline, err)
	}
}
