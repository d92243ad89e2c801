package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/client"
	"gondola/internal/api"
	"gondola/internal/auth"
	"gondola/internal/gondolatest"
	"gondola/internal/store"
)

func (s *server) made(by *client.Client, c gondola.Caveats) gondola.MadeToken {
	s.t.Helper()
	made, err := by.CreateToken(s.t.Context(), gondola.NewToken{Name: "test", Caveats: c})
	if err != nil {
		s.t.Fatal(err)
	}
	return made
}

func TestToken_LivesADayAndNoLongerThanItsParent(t *testing.T) {
	s := newServer(t)
	made := s.made(s.Client, gondola.Caveats{Apps: []gondola.AppName{"shop"}})
	if life := time.Until(made.ExpiresAt); life < 23*time.Hour || life > 25*time.Hour {
		t.Errorf("a token of no expiry lives %s, want a day", life)
	}
	child := s.made(gondolatest.Client(t, s.URL, made.Text), gondola.Caveats{Expires: time.Now().Add(1000 * time.Hour)})
	if !child.ExpiresAt.Equal(made.ExpiresAt) || child.Parent != made.ID {
		t.Errorf("a token made from it = %+v, want that of %s for a parent and its end", child.Token, made.ID)
	}
	if got := s.as(child.Text, "GET", "/v1/gondola/images", ""); got.status != 403 {
		t.Errorf("a token made from one of an app reaches the platform: %d %s", got.status, got.body)
	}
}

func TestToken_RevokingEndsItAndWhatWasMadeFromItAtOnceAndAfterARestart(t *testing.T) {
	s := newServer(t)
	parent := s.made(s.Client, gondola.Caveats{Apps: []gondola.AppName{"shop"}})
	beside := s.made(s.Client, gondola.Caveats{Apps: []gondola.AppName{"shop"}})
	child := s.made(gondolatest.Client(t, s.URL, parent.Text), gondola.Caveats{})
	unrecorded, err := auth.Attenuate(child.Text, gondola.Caveats{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	old, err := auth.Attenuate(s.Auth.Root(), gondola.Caveats{Org: "personal"}) // as an older gondola made them: of no record
	if err != nil {
		t.Fatal(err)
	}
	oldID, err := auth.ID(old)
	if err != nil {
		t.Fatal(err)
	}

	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(bounded, "GET", s.URL+"/v1/gondola/watch", nil)
	req.Header.Set("Authorization", "Bearer "+unrecorded)
	stream, err := http.DefaultClient.Do(req)
	if err != nil || stream.StatusCode != 200 {
		t.Fatalf("watch = %v, %v", stream, err)
	}
	defer stream.Body.Close()

	for name, by := range map[string]string{"a token beside it": beside.Text, "a token made from it": child.Text} {
		if err := gondolatest.Client(t, s.URL, by).RevokeToken(t.Context(), parent.ID); !errors.Is(err, gondola.ErrNotFound) {
			t.Errorf("revoked by %s = %v, want not found", name, err)
		}
	}
	if err := s.RevokeToken(t.Context(), parent.ID); err != nil {
		t.Fatal(err)
	}
	for line := bufio.NewScanner(stream.Body); line.Scan(); { // until it is cut
	}
	if bounded.Err() != nil {
		t.Error("the stream of a revoked token goes on")
	}
	if err := s.RevokeToken(t.Context(), oldID); err != nil {
		t.Errorf("revoking a token of no record = %v", err)
	}
	ended := map[string]string{"it": parent.Text, "made from it": child.Text, "attenuated from that": unrecorded, "an old one": old}
	for name, tok := range ended {
		if got := s.as(tok, "GET", "/v1/apps", ""); got.status != 401 || !strings.Contains(got.body, "revoked") {
			t.Errorf("%s = %d %s, want 401", name, got.status, got.body)
		}
	}
	if got := s.as(beside.Text, "GET", "/v1/apps", ""); got.status != 200 {
		t.Errorf("the one beside it = %d %s", got.status, got.body)
	}
	if err := s.RevokeToken(t.Context(), parent.ID); err != nil {
		t.Errorf("revoking again = %v", err)
	}
	for id, kind := range map[gondola.TokenID]error{"x": gondola.ErrInvalid, rootID(t, s): gondola.ErrPrecondition} {
		if err := s.RevokeToken(t.Context(), id); !errors.Is(err, kind) {
			t.Errorf("RevokeToken(%s) = %v, want %v", id, err, kind)
		}
	}

	records, err := store.OpenServer(filepath.Join(s.Dir, "server.db")) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	again, err := auth.Open(t.Context(), auth.Config{Path: filepath.Join(s.Dir, "token"), Records: records})
	if err != nil {
		t.Fatal(err)
	}
	for name, tok := range ended {
		if _, err := again.Verify(tok); !errors.Is(err, gondola.ErrUnauthorized) {
			t.Errorf("after a restart, %s = %v", name, err)
		}
	}
	if _, err := again.Verify(beside.Text); err != nil {
		t.Errorf("after a restart, the one beside it = %v", err)
	}
	if _, err := again.Verify(s.Auth.Internal()); err == nil {
		t.Error("the inner token of a process opens the next")
	}
}

func rootID(t *testing.T, s *server) gondola.TokenID {
	id, err := auth.ID(s.Auth.Root())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestToken_ListHasWhatWasMadeFromOnesOwnAndNoToken(t *testing.T) {
	s := newServer(t)
	parent := s.made(s.Client, gondola.Caveats{Apps: []gondola.AppName{"shop"}})
	child := s.made(gondolatest.Client(t, s.URL, parent.Text), gondola.Caveats{ReadOnly: true})
	s.made(s.Client, gondola.Caveats{Org: "personal"})
	if err := s.RevokeToken(t.Context(), child.ID); err != nil {
		t.Fatal(err)
	}
	all, err := s.ListTokens(t.Context())
	if err != nil || len(all) != 3 || all[0].ID != parent.ID || all[0].Name != "test" || all[0].Parent != rootID(t, s) || !all[0].ExpiresAt.Equal(parent.ExpiresAt) {
		t.Errorf("ListTokens by root = %+v, %v", all, err)
	}
	below, err := gondolatest.Client(t, s.URL, parent.Text).ListTokens(t.Context())
	if err != nil || len(below) != 1 || below[0].ID != child.ID || !below[0].Caveats.ReadOnly || below[0].RevokedAt.IsZero() {
		t.Errorf("ListTokens by a token = %+v, %v", below, err)
	}
	if raw := s.call("GET", "/v1/gondola/tokens", "").body; strings.Contains(raw, "gdl.") {
		t.Errorf("the list tells tokens: %s", raw)
	}
	for body, want := range map[string]string{
		`{"name":"a\nb"}`:                                "name",
		`{"caveats":{"org":"No"}}`:                       "caveats.org",
		`{"caveats":{"apps":[]}}`:                        "caveats.apps",
		`{"caveats":{"apps":["No"]}}`:                    "caveats.apps",
		`{"caveats":{"machines":["x"]}}`:                 "caveats.machines",
		`{"caveats":{"from_machine":"x"}}`:               "caveats.from_machine",
		`{"caveats":{"expires":"2020-01-01T00:00:00Z"}}`: "caveats.expires 2020-01-01T00:00:00Z: want a time ahead",
	} {
		s.wants("POST", "/v1/gondola/tokens", body, 422, want)
	}
}

func TestToken_OfTwoTheOneCountsThatMay(t *testing.T) {
	s := newServer(t)
	s.NewApp("blog")
	shop := s.made(s.Client, gondola.Caveats{Apps: []gondola.AppName{"shop"}})
	blog := s.made(s.Client, gondola.Caveats{Apps: []gondola.AppName{"blog"}})
	for path, want := range map[string]int{"/v1/apps/shop": 200, "/v1/apps/blog": 200, "/v1/gondola/images": 403} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+path, nil)
		req.Header.Set("Authorization", "FlyV1 fm2_stranger,"+shop.Text+","+blog.Text)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s with tokens of shop and of blog = %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// What a call takes may be in its body or its query: there too, one token that may is enough, wherever it stands.
func TestToken_OfTwoTheOneCountsThatMayByBodyAndQuery(t *testing.T) {
	s := newServer(t)
	s.wants("POST", "/v1/apps/shop/secrets/TOKEN", `{"value":"secret"}`, 201, ``)
	reader := s.made(s.Client, gondola.Caveats{ReadOnly: true}).Text
	writer := s.made(s.Client, gondola.Caveats{Apps: []gondola.AppName{"shop"}}).Text
	acme := s.made(s.Client, gondola.Caveats{Org: "acme"}).Text
	rival := s.made(s.Client, gondola.Caveats{Org: "rival"}).Text
	for _, c := range []struct {
		tokens, method, path, body string
		status                     int
		want                       string
	}{
		{reader + "," + writer, "GET", "/v1/apps/shop/secrets?show_secrets=true", "", 200, `"value":"secret"`},
		{reader + "," + writer, "GET", "/v1/apps/shop/secrets/TOKEN?show_secrets=true", "", 200, `"value":"secret"`},
		{reader + "," + acme, "GET", "/v1/apps/shop/secrets?show_secrets=true", "", 403, `forbidden`},
		{reader + "," + acme + "," + rival, "POST", "/v1/apps", `{"name":"theirs","org_slug":"rival"}`, 201, `"slug":"rival"`},
		{acme + "," + rival, "POST", "/v1/apps", `{"name":"first"}`, 201, `"slug":"acme"`},
		{acme + "," + rival, "POST", "/v1/apps", `{"name":"other","org_slug":"personal"}`, 403, `does not reach organisation \"personal\"`},
		{writer, "POST", "/v1/tokens/authorize", `{"header":"FlyV1 ` + acme + `,` + rival + `","access":{"org_slug":"rival","action":"c"}}`, 200, `"org":"rival"`},
		{writer, "POST", "/v1/tokens/authorize", `{"header":"FlyV1 ` + acme + `,` + rival + `","access":{"org_slug":"personal","action":"c"}}`, 403, `forbidden`},
	} {
		got := s.as(c.tokens, c.method, c.path, c.body)
		if got.status != c.status || !strings.Contains(got.body, c.want) {
			t.Errorf("%s %s %s = %d %s, want %d %s", c.method, c.path, c.body, got.status, got.body, c.status, c.want)
		}
	}
}

func TestToken_OfASourceMachineIsGoodFromItsAddressAlone(t *testing.T) {
	s := newServer(t)
	m := s.started(app)
	id := gondola.MachineID(m[strings.LastIndex(m, "/")+1:])
	here := s.made(s.Client, gondola.Caveats{FromMachine: id}) // fake Machines send from this host
	elsewhere := s.made(s.Client, gondola.Caveats{FromMachine: "0123456789abcd"})
	if got := s.as(here.Text, "GET", m, ""); got.status != 200 {
		t.Errorf("from the machine = %d %s", got.status, got.body)
	}
	if got := s.as(elsewhere.Text, "GET", m, ""); got.status != 401 || !strings.Contains(got.body, "does not come from it") {
		t.Errorf("from elsewhere = %d %s", got.status, got.body)
	}
	s.wants("POST", m+"/stop", "", 200, "ok")
	s.wants("GET", m+"/wait?state=stopped&timeout=20", "", 200, "stopped")
	if got := s.as(here.Text, "GET", m, ""); got.status != 401 {
		t.Errorf("from a machine that does not run = %d %s", got.status, got.body)
	}
}

func TestTokens_AsTheWireHasThem(t *testing.T) {
	s := newServer(t)
	got := s.wants("POST", "/v1/apps/shop/deploy_token", `{"expiry":"1h"}`, 200, `^\{"token":"gdl\.[^"]+"\}$`)
	var deploy struct{ Token string }
	if err := json.Unmarshal([]byte(got.body), &deploy); err != nil {
		t.Fatal(err)
	}
	id, _ := auth.ID(deploy.Token)
	if mine := s.as(deploy.Token, "GET", "/v1/tokens/current", ""); mine.status != 200 || mine.body != `{"tokens":[{"token_id":"`+string(id)+`","org_slug":"personal","organization":"personal","apps":["shop"]}]}` {
		t.Errorf("tokens/current = %d %s", mine.status, mine.body)
	}
	if made := s.as(deploy.Token, "POST", "/v1/apps/shop/machines", `{"skip_launch":true,"config":{"image":"test/app"}}`); made.status != 200 {
		t.Errorf("a deploy token deploys: %d %s", made.status, made.body)
	}
	if got := s.as(deploy.Token, "DELETE", "/v1/apps/shop", ""); got.status != 403 {
		t.Errorf("a deploy token deletes the app: %d %s", got.status, got.body)
	}
	s.wants("POST", "/v1/apps/shop/deploy_token", "", 200, `gdl`)
	s.wants("POST", "/v1/apps/shop/deploy_token", `{"expiry":"-1h"}`, 422, `expiry`)
	s.wants("POST", "/v1/apps/shop/deploy_token", `{"expiry":"soon"}`, 422, `expiry .*soon.*such as 24h`)
	s.wants("POST", "/v1/apps/nope/deploy_token", "", 404, `Could not find App`)

	header := `"header":"FlyV1 fm2_x,` + deploy.Token + `"`
	s.wants("POST", "/v1/tokens/authenticate", `{`+header+`}`, 200, `^\[\{"header":"Bearer gdl.*"caveats":\[\{"type":"Gondola","body":\{"org":"personal","apps":\["shop"\],"expires":".*"permission_token":"`)
	s.wants("POST", "/v1/tokens/authenticate", `{"header":"Bearer gdl.AAAA.AAAA"}`, 400, `header: `)
	s.wants("POST", "/v1/tokens/authenticate", ``, 400, `header is missing`)
	for access, want := range map[string]int{
		`{"app_name":"shop","action":31}`:                                200,
		`{"app_name":"shop","action":"rwcdC"}`:                           200,
		`{"app_name":"shop","org_slug":"personal","action":"r"}`:         200,
		`{"app_name":"shop","org_slug":"acme","action":"r"}`:             403,
		`{"app_name":"blog","action":1}`:                                 403,
		`{"org_slug":"personal","action":"c"}`:                           403,
		`{"app_name":"shop","machine_id":"0123456789abcd","action":"C"}`: 200,
		`{"app_name":"shop","action":32}`:                                400,
		`{"app_name":"shop","action":"x"}`:                               400,
		`{"app_name":"shop","action":{}}`:                                400,
		`{"machine_id":"0123456789abcd"}`:                                400,
		`{}`:                                                             400,
		`{"app_name":"shop","mutation":"x"}`:                             501,
	} {
		s.wants("POST", "/v1/tokens/authorize", `{`+header+`,"access":`+access+`}`, want, ``)
	}
	read, _ := s.Auth.Mint(gondola.Caveats{ReadOnly: true})
	s.wants("POST", "/v1/tokens/authorize", `{"header":"Bearer `+read+`","access":{"app_name":"shop","action":"w"}}`, 403, `may only read`)
	s.wants("POST", "/v1/tokens/authorize", `{"header":"Bearer `+read+`","access":{"app_name":"shop","action":"r","command":["sh"]}}`, 403, `may only read`)
}

// Caveats add up to nothing where they exclude each other: who asks about such a token must not take it for one of everything.
func TestToken_WhoseCaveatsExcludeEachOtherIsNone(t *testing.T) {
	s := newServer(t)
	shop, _ := s.Auth.Mint(gondola.Caveats{Org: "personal", Apps: []gondola.AppName{"shop"}, Machines: []gondola.MachineID{"0123456789abcd"}})
	for _, c := range []gondola.Caveats{{Apps: []gondola.AppName{"blog"}}, {Machines: []gondola.MachineID{"00000000000000"}}, {Org: "acme"}} {
		none, err := auth.Attenuate(shop, c)
		if err != nil {
			t.Fatal(err)
		}
		s.wants("POST", "/v1/tokens/authenticate", `{"header":"Bearer `+none+`"}`, 400, `opens nothing`)
		if got := s.as(none, "GET", "/v1/tokens/current", ""); got.status != 401 {
			t.Errorf("tokens/current of %+v = %d %s, want 401", c, got.status, got.body)
		}
	}
}

func TestLimits_AMachineExhaustsItsOwnBucketsAlone(t *testing.T) {
	limits := api.DefaultLimits()
	p := gondolatest.New(t, gondolatest.Options{Limits: &limits})
	p.NewApp("shop")
	inner := gondolatest.Client(t, p.URL, p.Auth.Internal())
	m, err := inner.Create(t.Context(), "shop", gondola.CreateRequest{Config: gondola.Config{Image: "test/app"}, SkipLaunch: true})
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/apps/shop/machines/" + string(m.ID) + "/stop"
	inside := auth.FromMachines(p.Handler)
	ask := func(h http.Handler, set func(*http.Request)) int {
		r := httptest.NewRequest("POST", path, strings.NewReader("{"))
		set(r)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	itself := func(r *http.Request) { r.Header.Set(gondola.MachineHeader, "shop/"+string(m.ID)) }
	last := 0
	for range 10 {
		last = ask(inside, itself)
	}
	owner := ask(p.Handler, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+p.Auth.Root()) })
	if last != http.StatusTooManyRequests || owner != http.StatusBadRequest {
		t.Errorf("a machine that asks all the time has %d and its owner %d, want 429 and 400", last, owner)
	}
}

// A Machine's id under another App's name is no way into its buckets.
func TestLimits_AStrangerExhaustsNobodysBucket(t *testing.T) {
	s := &server{Platform: gondolatest.New(t, gondolatest.Options{Limits: &api.Limits{Default: api.Rate{PerSecond: 0.001, Burst: 1}}}), t: t}
	inner := gondolatest.Client(t, s.URL, s.Auth.Internal())
	for _, name := range []gondola.AppName{"shop", "blog"} {
		if _, err := inner.CreateApp(t.Context(), gondola.NewApp{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := inner.Create(t.Context(), "shop", gondola.CreateRequest{Config: gondola.Config{Image: "test/app"}, SkipLaunch: true})
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := s.Auth.Mint(gondola.Caveats{Apps: []gondola.AppName{"blog"}})
	for _, want := range []int{404, 429} {
		if got := s.as(stranger, "GET", "/v1/apps/blog/machines/"+string(m.ID), ""); got.status != want {
			t.Errorf("a stranger asks for the machine = %d %s, want %d", got.status, got.body, want)
		}
	}
	owner, _ := s.Auth.Mint(gondola.Caveats{Apps: []gondola.AppName{"shop"}})
	for _, want := range []int{200, 429} {
		if got := s.as(owner, "GET", "/v1/apps/shop/machines/"+string(m.ID), ""); got.status != want {
			t.Errorf("its owner asks for it = %d %s, want %d", got.status, got.body, want)
		}
	}
}

func TestLimits_AreThoseOfTheDocumentationPerActionAndThing(t *testing.T) {
	limits := api.DefaultLimits()
	s := &server{Platform: gondolatest.New(t, gondolatest.Options{Limits: &limits}), t: t}
	inner := gondolatest.Client(t, s.URL, s.Auth.Internal())
	for _, name := range []gondola.AppName{"shop", "blog"} {
		if _, err := inner.CreateApp(t.Context(), gondola.NewApp{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	made := func(app gondola.AppName) string {
		m, err := inner.Create(t.Context(), app, gondola.CreateRequest{Config: gondola.Config{Image: "test/app"}, SkipLaunch: true})
		if err != nil {
			t.Fatal(err)
		}
		return "/v1/apps/" + string(app) + "/machines/" + string(m.ID)
	}
	one, two := made("shop"), made("shop")
	burst := func(token, method, path string) (through int, last answer) {
		for range 30 {
			if last = s.as(token, method, path, `{"value":"v"}`); last.status == http.StatusTooManyRequests {
				return through, last
			}
			through++
		}
		return through, last
	}
	for _, c := range []struct {
		method, path string
		least, most  int // time passes meanwhile
	}{
		{"GET", one, 10, 20},
		{"GET", two, 10, 20}, // each Machine has its own
		{"GET", one + "/events", 3, 6},
		{"GET", one + "/versions", 3, 6}, // and each action
		{"POST", one + "/metadata/k", 3, 6},
		{"GET", "/v1/apps/shop/machines", 3, 6},
		{"GET", "/v1/apps/blog/machines", 3, 6},
		{"GET", "/v1/gondola/apps/shop/machines/" + one[strings.LastIndex(one, "/")+1:] + "/logs", 30, 30},
		{"GET", "/v1/orgs/personal/machines", 30, 30},
	} {
		n, last := burst(s.Auth.Root(), c.method, c.path)
		if n < c.least || n > c.most {
			t.Errorf("%s %s: %d went through at once, want %d to %d", c.method, c.path, n, c.least, c.most)
		}
		if n < 30 && (last.header.Get("Retry-After") != "1" || !strings.Contains(last.body, `"kind":"rate limited"`) || !strings.Contains(last.body, `"status":"unknown"`) || !strings.Contains(last.body, "at once; try again in")) {
			t.Errorf("%s %s too often = Retry-After %q %s", c.method, c.path, last.header.Get("Retry-After"), last.body)
		}
	}
	narrow, _ := auth.Attenuate(s.Auth.Root(), gondola.Caveats{Apps: []gondola.AppName{"shop"}})
	if got := s.as(narrow, "GET", "/v1/apps/shop/machines", ""); got.status != http.StatusTooManyRequests {
		t.Errorf("another token gets round a limit: %d", got.status)
	}
	if n, last := burst(s.Auth.Internal(), "GET", "/v1/apps/shop/machines"); n != 30 {
		t.Errorf("the platform's own part is limited after %d: %s", n, last.body)
	}
	begin := time.Now()
	for range 3 { // the client waits as long as it is told
		if _, err := s.List(t.Context(), "shop", gondola.ListFilter{}); err != nil {
			t.Fatalf("List by a patient client = %v", err)
		}
	}
	if took := time.Since(begin); took < time.Second {
		t.Errorf("three lists of an exhausted action took %s", took)
	}
}
