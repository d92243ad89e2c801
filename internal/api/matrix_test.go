package api_test

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/api"
	"gondola/internal/auth"
)

// who are the principals of the matrix, in the order of the columns of may. All but root, otherOrg and otherApp are narrowed within the organisation,
// App and Machine that paths are filled with.
var who = []string{"root", "org", "org read", "app", "app read", "machine", "machine read", "other org", "other app", "other machine", "itself", "another itself"}

// may says, for each kind of route, which of them get through: + or -.
var may = map[string]string{
	"anyone":         "++++++++++--",
	"derive":         "++-+-+-+++--", // a token that may only read makes and ends no tokens
	"list":           "++++++++++--", // what is in the list is another matter
	"list app":       "+++++++--+--", // likewise
	"read app":       "+++++-------",
	"change app":     "++-+--------",
	"read machine":   "+++++++-----",
	"change machine": "++-+-+------",
	"ask itself":     "+++++++---+-", // by /.fly/api as well
	"act on itself":  "++-+-+----+-",
	"make app":       "++----------",
	"delete app":     "++----------",
	"look":           "+-----------",
	"run":            "+-----------",
}

// matrix has every route of the API. It is written by hand, so that a route with another rule than it should have does not agree with it.
var matrix = map[string]string{
	"GET /v1/apps":          "list",
	"POST /v1/apps":         "make app",
	"GET /v1/apps/{app}":    "read app",
	"DELETE /v1/apps/{app}": "delete app",

	"GET /v1/apps/{app}/machines":                          "list app",
	"POST /v1/apps/{app}/machines":                         "change app",
	"GET /v1/apps/{app}/machines/{id}":                     "ask itself",
	"POST /v1/apps/{app}/machines/{id}":                    "change machine",
	"DELETE /v1/apps/{app}/machines/{id}":                  "change machine",
	"POST /v1/apps/{app}/machines/{id}/start":              "change machine",
	"POST /v1/apps/{app}/machines/{id}/stop":               "act on itself",
	"POST /v1/apps/{app}/machines/{id}/restart":            "act on itself",
	"POST /v1/apps/{app}/machines/{id}/signal":             "change machine",
	"POST /v1/apps/{app}/machines/{id}/suspend":            "act on itself",
	"GET /v1/apps/{app}/machines/{id}/wait":                "ask itself",
	"POST /v1/apps/{app}/machines/{id}/exec":               "act on itself",
	"GET /v1/apps/{app}/machines/{id}/lease":               "change machine", // it tells the nonce
	"POST /v1/apps/{app}/machines/{id}/lease":              "change machine",
	"DELETE /v1/apps/{app}/machines/{id}/lease":            "change machine",
	"POST /v1/apps/{app}/machines/{id}/cordon":             "change machine",
	"POST /v1/apps/{app}/machines/{id}/uncordon":           "change machine",
	"GET /v1/apps/{app}/machines/{id}/versions":            "read machine",
	"GET /v1/apps/{app}/machines/{id}/events":              "read machine",
	"GET /v1/apps/{app}/machines/{id}/ps":                  "read machine",
	"GET /v1/apps/{app}/machines/{id}/metadata":            "ask itself",
	"PUT /v1/apps/{app}/machines/{id}/metadata":            "act on itself",
	"PATCH /v1/apps/{app}/machines/{id}/metadata":          "act on itself",
	"GET /v1/apps/{app}/machines/{id}/metadata/{key}":      "ask itself",
	"POST /v1/apps/{app}/machines/{id}/metadata/{key}":     "act on itself",
	"DELETE /v1/apps/{app}/machines/{id}/metadata/{key}":   "act on itself",
	"GET /v1/apps/{app}/machines/{id}/memory":              "read machine",
	"PUT /v1/apps/{app}/machines/{id}/memory":              "change machine",
	"POST /v1/apps/{app}/machines/{id}/memory/reclaim":     "change machine",
	"GET /v1/apps/{app}/volumes":                           "read app",
	"POST /v1/apps/{app}/volumes":                          "change app",
	"GET /v1/apps/{app}/volumes/{volume}":                  "read app",
	"PUT /v1/apps/{app}/volumes/{volume}":                  "change app",
	"DELETE /v1/apps/{app}/volumes/{volume}":               "change app",
	"PUT /v1/apps/{app}/volumes/{volume}/extend":           "change app",
	"GET /v1/apps/{app}/volumes/{volume}/snapshots":        "read app",
	"POST /v1/apps/{app}/volumes/{volume}/snapshots":       "change app",
	"GET /v1/apps/{app}/network_policies":                  "read app",
	"POST /v1/apps/{app}/network_policies":                 "change app",
	"DELETE /v1/apps/{app}/network_policies/{policy}":      "change app",
	"POST /v1/apps/{app}/deploy_token":                     "change app",
	"GET /v1/apps/{app}/certificates":                      "change app",
	"POST /v1/apps/{app}/certificates/acme":                "change app",
	"POST /v1/apps/{app}/certificates/custom":              "change app",
	"GET /v1/apps/{app}/certificates/{hostname}":           "change app",
	"DELETE /v1/apps/{app}/certificates/{hostname}":        "change app",
	"DELETE /v1/apps/{app}/certificates/{hostname}/acme":   "change app",
	"POST /v1/apps/{app}/certificates/{hostname}/check":    "change app",
	"DELETE /v1/apps/{app}/certificates/{hostname}/custom": "change app",
	"GET /v1/apps/{app}/ip_assignments":                    "change app",
	"POST /v1/apps/{app}/ip_assignments":                   "change app",
	"DELETE /v1/apps/{app}/ip_assignments/{ip}":            "change app",
	"GET /v1/apps/{app}/secretkeys":                        "change app",
	"GET /v1/apps/{app}/secretkeys/{name}":                 "change app",
	"POST /v1/apps/{app}/secretkeys/{name}":                "change app",
	"DELETE /v1/apps/{app}/secretkeys/{name}":              "change app",
	"POST /v1/apps/{app}/secretkeys/{name}/{operation}":    "change app",
	"GET /v1/apps/{app}/secrets":                           "read app",
	"POST /v1/apps/{app}/secrets":                          "change app",
	"GET /v1/apps/{app}/secrets/{name}":                    "read app",
	"POST /v1/apps/{app}/secrets/{name}":                   "change app",
	"DELETE /v1/apps/{app}/secrets/{name}":                 "change app",
	"GET /v1/orgs/{org}/machines":                          "list",
	"GET /v1/orgs/{org}/volumes":                           "list",
	"POST /v1/platform/placements":                         "anyone",
	"GET /v1/platform/regions":                             "anyone",
	"GET /v1/tokens/current":                               "anyone",
	"POST /v1/tokens/authenticate":                         "anyone",
	"POST /v1/tokens/authorize":                            "anyone",
	"POST /v1/tokens/kms":                                  "anyone",
	"POST /v1/tokens/oidc":                                 "anyone",

	"GET /v1/gondola":                                                     "anyone",
	"GET /v1/gondola/watch":                                               "list",
	"POST /v1/gondola/ask":                                                "anyone",
	"GET /v1/gondola/stats":                                               "list",
	"GET /v1/gondola/orgs":                                                "list",
	"GET /v1/gondola/tokens":                                              "anyone", // those made from one's own
	"POST /v1/gondola/tokens":                                             "derive",
	"DELETE /v1/gondola/tokens/{token}":                                   "derive",
	"GET /v1/gondola/apps/{app}/machines/{id}/logs":                       "read machine",
	"GET /v1/gondola/apps/{app}/machines/{id}/exec":                       "change machine",
	"GET /v1/gondola/apps/{app}/machines/{id}/attach":                     "change machine",
	"GET /v1/gondola/apps/{app}/machines/{id}/dial":                       "change machine",
	"PUT /v1/gondola/apps/{app}/machines/{id}/payload":                    "change machine",
	"PUT /v1/gondola/apps/{app}/machines/{id}/secrets":                    "change machine",
	"POST /v1/gondola/apps/{app}/volumes/{volume}/recover":                "change app",
	"DELETE /v1/gondola/apps/{app}/volumes/{volume}":                      "change app",
	"POST /v1/gondola/secrets/key":                                        "run",
	"POST /v1/gondola/apps/{app}/machines/{id}/containers":                "change machine",
	"PUT /v1/gondola/apps/{app}/machines/{id}/size":                       "change machine",
	"GET /v1/gondola/apps/{app}/snapshots":                                "read app",
	"DELETE /v1/gondola/apps/{app}/volumes/{volume}/snapshots/{snapshot}": "change app",
	"PUT /v1/gondola/networks/{network}/services":                         "run",
	"PUT /v1/gondola/networks/{network}/policies/{owner}":                 "run",
	"GET /v1/gondola/entrances":                                           "look",
	"POST /v1/gondola/images":                                             "run",
	"GET /v1/gondola/images":                                              "look",
	"DELETE /v1/gondola/images":                                           "run",
}

// bodies make a call go as far as access decides it.
var bodies = map[string]string{
	"POST /v1/apps": `{"name":"shop","org_slug":"personal"}`, // taken: nothing is made
}

// itself begins what stands in place of a token for a Machine that asks through its own socket.
const itself = "machine "

// tokens returns a token for each of who, and of those whom no route lets in.
func (s *server) tokens(machine gondola.MachineID) (good, bad map[string]string) {
	mint := func(c gondola.Caveats) string {
		tok, err := s.Auth.Mint(c)
		if err != nil {
			s.t.Fatal(err)
		}
		return tok
	}
	shop := []gondola.AppName{"shop"}
	good = map[string]string{
		"root":          s.Auth.Root(),
		"org":           mint(gondola.Caveats{Org: "personal"}),
		"org read":      mint(gondola.Caveats{Org: "personal", ReadOnly: true}),
		"app":           mint(gondola.Caveats{Apps: shop}),
		"app read":      mint(gondola.Caveats{Apps: shop, ReadOnly: true}),
		"machine":       mint(gondola.Caveats{Machines: []gondola.MachineID{machine}}),
		"machine read":  mint(gondola.Caveats{Apps: shop, Machines: []gondola.MachineID{machine}, ReadOnly: true}),
		"other org":     mint(gondola.Caveats{Org: "acme"}),
		"other app":     mint(gondola.Caveats{Apps: []gondola.AppName{"blog"}}),
		"other machine": mint(gondola.Caveats{Machines: []gondola.MachineID{"0123456789abcd"}}),

		"itself": itself + "shop/" + string(machine), "another itself": itself + "shop/0123456789abcd",
	}
	revoked, err := s.CreateToken(s.t.Context(), gondola.NewToken{Name: "revoked"})
	if err != nil {
		s.t.Fatal(err)
	}
	child, _ := auth.Attenuate(revoked.Text, gondola.Caveats{Apps: shop})
	if err := s.RevokeToken(s.t.Context(), revoked.ID); err != nil {
		s.t.Fatal(err)
	}
	bad = map[string]string{
		"none": "", "garbage": "gdl.AAAA.AAAA", "another platform's": auth.New().Root(), "a macaroon": "fm2_lJPECAAAAAAAAAAA",
		"expired":              mint(gondola.Caveats{Expires: time.Now().Add(-time.Second)}),
		"revoked":              revoked.Text,
		"of a revoked one":     child,
		"of another's machine": mint(gondola.Caveats{FromMachine: "0123456789abcd"}),
	}
	return good, bad
}

// status sends a request and returns its status and what comes of its answer in a short while; zero where there was none, as no refusal takes.
func (s *server) status(token, method, path, body string) (int, string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	url := s.URL
	name, inside := strings.CutPrefix(token, itself)
	if inside {
		url = s.inside
	}
	req, err := http.NewRequestWithContext(ctx, method, url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if inside {
		req.Header.Set(gondola.MachineHeader, name)
	} else if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	if resp.StatusCode == 200 && strings.HasSuffix(path, "/watch") {
		return resp.StatusCode, ""
	}
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestAccess_EveryRouteTimesEveryPrincipal is the proof that access holds: a new route fails it until it has a line in matrix.
func TestAccess_EveryRouteTimesEveryPrincipal(t *testing.T) {
	s := newServer(t)
	s.NewApp("blog")
	m := s.started(app)
	machine := m[strings.LastIndex(m, "/")+1:]
	good, bad := s.tokens(gondola.MachineID(machine))
	fill := strings.NewReplacer("{app}", "shop", "{id}", machine, "{org}", "personal")
	parameter := regexp.MustCompile(`\{\w+\}`)
	left := map[string]bool{}
	for route := range matrix {
		left[route] = true
	}
	for _, r := range api.RouteTable() {
		route := r[0] + " " + r[1]
		delete(left, route)
		row, known := may[matrix[route]]
		if !known {
			t.Errorf("matrix has no line for %s: say there who may, and in docs/api.md or docs/rfd/0002-gondola-extension.md what it is", route)
			continue
		}
		path := parameter.ReplaceAllString(fill.Replace(r[1]), "none")
		for name, token := range bad {
			if got, text := s.status(token, r[0], path, bodies[route]); got != http.StatusUnauthorized || !strings.Contains(text, `"kind":"unauthorized"`) {
				t.Errorf("%s by %s = %d %s, want 401", route, name, got, text)
			}
		}
		for i, name := range who {
			got, text := s.status(good[name], r[0], path, bodies[route])
			if got == http.StatusAccepted && route == "DELETE /v1/apps/{app}" {
				s.NewApp("shop")
			}
			switch through := row[i] == '+'; {
			case through && (got == 401 || got == 403 || got >= 500 && got != 501):
				t.Errorf("%s by %s = %d %s, want it let through", route, name, got, text)
			case !through && (got != 403 || !strings.Contains(text, `"kind":"forbidden"`)):
				t.Errorf("%s by %s = %d %s, want 403", route, name, got, text)
			case strings.HasPrefix(name, "other") && strings.Contains(text, machine) && !strings.Contains(text, "does not reach"):
				t.Errorf("%s tells %s of machine %s: %s", route, name, machine, text)
			}
		}
	}
	for route := range left {
		t.Errorf("matrix has a line for %s, which is no route", route)
	}
	if got, text := s.status(good["other org"], "POST", "/v1/apps", `{"name":"theirs"}`); got != 201 || !strings.Contains(text, `"slug":"acme"`) {
		t.Errorf("an app of an organisation's own token = %d %s, want it in that organisation", got, text)
	}
}

func TestAccess_ListsHoldOnlyWhatTheTokenReaches(t *testing.T) {
	s := newServer(t)
	if _, err := s.CreateApp(t.Context(), gondola.NewApp{Name: "acme-web", Org: "acme"}); err != nil {
		t.Fatal(err)
	}
	mine := s.machine(`{"name":"mine","skip_launch":true,"config":{"image":"test/app"}}`)
	s.machine(`{"name":"beside","skip_launch":true,"config":{"image":"test/app"}}`)
	if got := s.call("POST", "/v1/apps/acme-web/machines", `{"name":"theirs","skip_launch":true,"config":{"image":"test/app"}}`); got.status != 200 {
		t.Fatal(got.body)
	}
	for _, c := range []struct {
		caveats gondola.Caveats
		path    string
		sees    []string
		not     []string
	}{
		{gondola.Caveats{Org: "acme"}, "/v1/apps", []string{"acme-web"}, []string{"shop"}},
		{gondola.Caveats{Org: "acme"}, "/v1/orgs/-/machines", []string{"theirs"}, []string{"mine", "beside"}},
		{gondola.Caveats{Org: "acme"}, "/v1/orgs/personal/machines", nil, []string{"theirs", "mine", "beside"}},
		{gondola.Caveats{Org: "acme"}, "/v1/gondola/orgs", []string{`"slug":"acme","apps":1`}, []string{"personal"}},
		{gondola.Caveats{Org: "personal"}, "/v1/gondola/orgs", []string{`"slug":"personal","apps":1`}, []string{"acme"}},
		{gondola.Caveats{}, "/v1/gondola/orgs", []string{`"slug":"personal"`, `"slug":"acme"`}, nil},
		{gondola.Caveats{Apps: []gondola.AppName{"shop"}}, "/v1/orgs/-/machines", []string{"mine", "beside"}, []string{"theirs"}},
		{gondola.Caveats{Machines: []gondola.MachineID{gondola.MachineID(mine[strings.LastIndex(mine, "/")+1:])}}, "/v1/apps/shop/machines", []string{"mine"}, []string{"beside"}},
		{gondola.Caveats{Machines: []gondola.MachineID{gondola.MachineID(mine[strings.LastIndex(mine, "/")+1:])}}, "/v1/orgs/-/machines", []string{"mine"}, []string{"beside", "theirs"}},
		{gondola.Caveats{Machines: []gondola.MachineID{gondola.MachineID(mine[strings.LastIndex(mine, "/")+1:])}}, "/v1/apps", nil, []string{"shop", "acme-web"}},
	} {
		tok, err := s.Auth.Mint(c.caveats)
		if err != nil {
			t.Fatal(err)
		}
		got := s.as(tok, "GET", c.path, "")
		for _, want := range c.sees {
			if !strings.Contains(got.body, want) {
				t.Errorf("GET %s by %+v lacks %s: %s", c.path, c.caveats, want, got.body)
			}
		}
		for _, not := range c.not {
			if strings.Contains(got.body, not) {
				t.Errorf("GET %s by %+v tells of %s: %s", c.path, c.caveats, not, got.body)
			}
		}
	}
	acme, _ := s.Auth.Mint(gondola.Caveats{Org: "acme"})
	for body, want := range map[string]string{
		`{"name":"a","org_slug":"personal"}`:                 "does not reach organisation",
		`{"name":"a","org_slug":"acme","network":"default"}`: "belongs to another organisation",
	} {
		if got := s.as(acme, "POST", "/v1/apps", body); got.status != 403 || !strings.Contains(got.body, want) {
			t.Errorf("POST /v1/apps %s by a token of acme = %d %s, want 403 %s", body, got.status, got.body, want)
		}
	}
}

func TestAccess_AMachineIsItselfOnTheListenerForPilotsAlone(t *testing.T) {
	s := newServer(t)
	s.NewApp("blog")
	id := s.started(app)
	id = id[strings.LastIndex(id, "/")+1:]
	s.headers = http.Header{gondola.MachineHeader: {"shop/" + id}}
	for _, c := range []struct {
		url, path, token string
		want             int
	}{
		{s.inside, "/v1/apps/shop/machines/" + id, "", 200},
		{s.inside, "/v1/apps/shop/machines/" + id, "no token", 200},
		{s.inside, "/v1/apps/blog/machines/" + id, "", 403},
		{s.inside, "/v1/apps/shop/machines", s.Auth.Root(), 403}, // a token is not looked at
		{s.URL, "/v1/apps/shop/machines/" + id, "", 401},
		{s.URL, "/v1/apps/shop/machines/" + id, s.Auth.Root(), 200},
	} {
		s.Platform.URL = c.url
		if got := s.as(c.token, "GET", c.path, ""); got.status != c.want {
			t.Errorf("GET %s%s with token %q = %d %s, want %d", c.url, c.path, c.token, got.status, got.body, c.want)
		}
	}
	for _, name := range []string{"", "shop", "shop/", "/" + id} {
		s.Platform.URL, s.headers = s.inside, http.Header{gondola.MachineHeader: {name}}
		if got := s.call("GET", "/v1/apps/shop/machines/"+id, ""); got.status != 401 {
			t.Errorf("a machine by the name of %q gets %d %s, want 401", name, got.status, got.body)
		}
	}
}

func TestAccess_AMachineByItselfStaysWhatOthersTakeItFor(t *testing.T) {
	s := newServer(t)
	id := s.started(`{"config":{"image":"test/app","metadata":{"role":"db","note":"old"}}}`)
	id = id[strings.LastIndex(id, "/")+1:]
	if _, err := s.PutNetworkPolicy(t.Context(), "shop", gondola.NetworkPolicy{Name: "closed", Selector: gondola.NetworkSelector{Metadata: map[string]string{"role": "db"}}}); err != nil {
		t.Fatal(err)
	}
	s.Platform.URL, s.headers = s.inside, http.Header{gondola.MachineHeader: {"shop/" + id}}
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/note", `{"value":"new"}`, 204},
		{"POST", "/role", `{"value":"web"}`, 403},
		{"DELETE", "/role", "", 403},
		{"PATCH", "", `{"metadata":{"note":"newer","kubernetes_uid":"another's"}}`, 403},
		{"PUT", "", `{"metadata":{"note":"newest"}}`, 403}, // without the role
		{"GET", "/note", "", 200},
		{"DELETE", "/note", "", 204},
	} {
		if got := s.as("", c.method, "/v1/apps/shop/machines/"+id+"/metadata"+c.path, c.body); got.status != c.want {
			t.Errorf("%s metadata%s %s = %d %s, want %d", c.method, c.path, c.body, got.status, got.body, c.want)
		}
	}
}
