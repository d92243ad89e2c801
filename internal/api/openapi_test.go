package api_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gondola/internal/api"
)

var update = flag.Bool("update", false, "write the table of deviations in docs/api.md anew; its reasons stay")

type object = map[string]any

// spec is an OpenAPI document as it is read.
type spec struct {
	Paths      map[string]map[string]object // path, method
	Components struct{ Schemas map[string]object }
}

func parseSpec(t *testing.T, text []byte) *spec {
	t.Helper()
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// at follows keys into nested objects; nil where there is nothing.
func at(o object, keys ...string) object {
	for _, k := range keys {
		o, _ = o[k].(object)
	}
	return o
}

func text(o object, key string) string { s, _ := o[key].(string); return s }

// resolve follows references; name is that of the last component, or what it was called before.
func (s *spec) resolve(o object, name string) (object, string) {
	for {
		if ref := text(o, "$ref"); ref != "" {
			name = ref[strings.LastIndexByte(ref, '/')+1:]
			o = s.Components.Schemas[name]
		} else if all, ok := o["allOf"].([]any); ok && len(all) == 1 {
			o = all[0].(object)
		} else {
			return o, name
		}
	}
}

// body is the schema of a request's or answer's JSON body, if it has one.
func body(o object) object {
	for contentType, c := range at(o, "content") {
		if strings.Contains(contentType, "json") || strings.Contains(contentType, "octet-stream") {
			return at(c.(object), "schema")
		}
	}
	return nil
}

func ownSpec(t *testing.T, s *server) *spec {
	t.Helper()
	got := s.as("", "GET", "/openapi.json", "")
	if got.status != 200 || !strings.HasPrefix(got.header.Get("Content-Type"), "application/json") {
		t.Fatalf("GET /openapi.json = %d %s", got.status, got.header)
	}
	return parseSpec(t, []byte(got.body))
}

func TestOpenAPI_HasEveryRoute(t *testing.T) {
	own := ownSpec(t, newServer(t))
	known := 0
	for _, r := range api.RouteTable() {
		if own.Paths[r[1]][strings.ToLower(r[0])] == nil {
			t.Errorf("/openapi.json has no %s %s: describe it in operations.go", r[0], r[1])
		}
		known++
	}
	for path, methods := range own.Paths {
		for range methods {
			known--
		}
		for name := range strings.SplitSeq(path, "/") {
			if strings.HasPrefix(name, "{") && !strings.Contains(fmt.Sprint(methods), "name:"+strings.Trim(name, "{}")) {
				t.Errorf("%s: parameter %s is not described", path, name)
			}
		}
	}
	if known != 0 {
		t.Errorf("%d operations less than routes", known)
	}
	for _, op := range api.Operations() {
		if !slices.ContainsFunc(api.RouteTable(), func(r [2]string) bool { return r[0]+" "+r[1] == op }) {
			t.Errorf("operations.go describes %s, which is no route", op)
		}
	}
}

func TestOpenAPI_FieldsHaveTheCommentsOfTheCode(t *testing.T) {
	own := ownSpec(t, newServer(t))
	field := at(own.Components.Schemas["ProcessStat"], "properties", "pid")
	if text(field, "type") != "integer" {
		t.Errorf("ProcessStat.pid = %v", field)
	}
	if s := own.Components.Schemas["Healthcheck"]; text(s, "description") != "Healthcheck is a probe of one container. Durations are in seconds." {
		t.Errorf("Healthcheck = %v", s)
	}
	if f := at(own.Components.Schemas["TempDir"], "properties", "size_mb"); text(f, "description") != "If zero, not limited." {
		t.Errorf("TempDir.size_mb = %v", f)
	}
	if f := at(own.Components.Schemas["UpdateRequest"], "properties"); f["config"] == nil || f["current_version"] == nil || f["CreateRequest"] != nil {
		t.Errorf("fields of embedded structs are not those of UpdateRequest: %v", f)
	}
}

func TestDocs_IsOnePageWithoutAnythingFromElsewhere(t *testing.T) {
	s := newServer(t)
	got := s.as("", "GET", "/docs", "")
	if got.status != 200 || !strings.HasPrefix(got.header.Get("Content-Type"), "text/html") || !strings.Contains(got.header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("GET /docs = %d %v", got.status, got.header)
	}
	for _, want := range []string{"/v1/apps/{app}/machines/{id}/wait", "fly-machine-lease-nonce", "Healthcheck is a probe of one container"} {
		if !strings.Contains(got.body, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if bad := regexp.MustCompile(`<script|<link|<img|src=|href="[^"#o]|@import|url\(`).FindString(got.body); bad != "" {
		t.Errorf("the page has %q", bad)
	}
}

// comparison collects in what our document differs from Fly.io's.
type comparison struct {
	theirs, ours *spec
	done         map[[2]string]bool
	found        map[string]bool // "where | what"
}

func (c *comparison) note(where, format string, args ...any) {
	c.found["`"+where+"` | "+fmt.Sprintf(format, args...)] = true
}

// kinds returns the types that a schema allows; none means anything.
func kinds(o object) (out []string) {
	if one, ok := o["oneOf"].([]any); ok {
		for _, s := range one {
			out = append(out, kinds(s.(object))...)
		}
		return out
	}
	if k := text(o, "type"); k != "" {
		out = append(out, k)
	}
	return out
}

func (c *comparison) schemas(where string, theirs, ours object) {
	theirs, theirName := c.theirs.resolve(theirs, where)
	ours, ourName := c.ours.resolve(ours, where)
	if theirs == nil || c.done[[2]string{theirName, ourName}] && theirName != where {
		return
	}
	c.done[[2]string{theirName, ourName}] = true
	kind, kindsOfOurs := text(theirs, "type"), kinds(ours)
	switch {
	case kind == "" || len(kindsOfOurs) == 0:
		return
	case !slices.Contains(kindsOfOurs, kind):
		c.note(theirName, "is %s, here %s", kind, strings.Join(kindsOfOurs, " or "))
		return
	}
	if enum, ok := ours["enum"].([]any); ok {
		for _, v := range list(theirs["enum"]) {
			if !slices.Contains(enum, v) {
				c.note(theirName, "has value %v, here not", v)
			}
		}
	}
	if items := at(theirs, "items"); items != nil {
		c.schemas(theirName+"[]", items, at(ours, "items"))
	}
	if values := at(theirs, "additionalProperties"); values != nil {
		if inner := at(ours, "additionalProperties"); inner != nil {
			c.schemas(theirName+"{}", values, inner)
		} else {
			c.note(theirName, "is a map, here an object")
		}
	}
	c.properties(theirName, at(theirs, "properties"), at(ours, "properties"))
}

func list(v any) []any { l, _ := v.([]any); return l }

func (c *comparison) properties(where string, theirs, ours object) {
	if theirs == nil {
		return
	}
	var added []string
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if theirs[name] == nil {
			added = append(added, name)
		}
	}
	if len(added) > 0 {
		c.note(where, "adds %s", strings.Join(added, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		if ours[name] == nil {
			c.note(where, "lacks %s", name)
			continue
		}
		c.schemas(where+"."+name, theirs[name].(object), ours[name].(object))
	}
}

// parameters returns the query parameters of an operation by name.
func parameters(op object) object {
	out := object{}
	for _, p := range list(op["parameters"]) {
		if p := p.(object); p["in"] == "query" {
			out[text(p, "name")] = at(p, "schema")
		}
	}
	return out
}

// operations compares two operations.
func (c *comparison) operations(name string, theirs, ours object) {
	theirQuery, ourQuery := parameters(theirs), parameters(ours)
	c.properties(name+" query", theirQuery, ourQuery)
	if b := body(at(theirs, "requestBody")); b != nil {
		c.schemas(name+" body", b, body(at(ours, "requestBody")))
	}
	for status, answer := range at(theirs, "responses") {
		if code, err := strconv.Atoi(status); err != nil || code >= 300 {
			continue // every error has the one body
		}
		mine := at(ours, "responses", status)
		if mine == nil {
			c.note(name, "answers %s, here %s", status, strings.Join(slices.Sorted(maps.Keys(at(ours, "responses"))), " or "))
			continue
		}
		if b := body(answer.(object)); b != nil {
			c.schemas(name+" answer", b, body(mine))
		}
	}
}

var ourNames = strings.NewReplacer("{app_name}", "{app}", "{machine_id}", "{id}", "{volume_id}", "{volume}", "{org_slug}", "{org}", "{secret_name}", "{name}")

const deviationsBegin, deviationsEnd = "<!-- deviations: go test ./internal/api -run OpenAPI -update -->\n", "<!-- end of deviations -->\n"

// TestOpenAPI_DiffersFromFlysOnlyAsDocsSay compares path by path and field by field, and the outcome with the table of docs/api.md.
func TestOpenAPI_DiffersFromFlysOnlyAsDocsSay(t *testing.T) {
	b, err := os.ReadFile("testdata/machines-openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	c := &comparison{theirs: parseSpec(t, b), ours: ownSpec(t, newServer(t)), done: map[[2]string]bool{}, found: map[string]bool{}}
	compared := 0
	for _, path := range slices.Sorted(maps.Keys(c.theirs.Paths)) {
		mine := ourNames.Replace(path)
		if tail := regexp.MustCompile(`(/secretkeys/\{name\}/)\w+$`); tail.MatchString(mine) {
			mine = tail.ReplaceAllString(mine, "${1}{operation}")
		}
		for _, method := range slices.Sorted(maps.Keys(c.theirs.Paths[path])) {
			name := strings.ToUpper(method) + " " + mine
			ours := c.ours.Paths[mine][method]
			switch {
			case ours == nil:
				t.Errorf("Fly.io's %s is not in /openapi.json", name)
			case at(ours, "responses", "501") == nil: // docs/api.md has those by operation
				c.operations(name, c.theirs.Paths[path][method], ours)
				compared++
			}
		}
	}
	if compared < 40 {
		t.Errorf("only %d operations were compared", compared)
	}
	checkDeviations(t, c.found)
}

// checkDeviations compares what was found with the table, in which every line has a reason.
func checkDeviations(t *testing.T, found map[string]bool) {
	const file = "../../docs/api.md"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), deviationsBegin)
	table, after, ok2 := strings.Cut(rest, deviationsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no table of deviations between %q and %q", file, deviationsBegin, deviationsEnd)
	}
	reasons := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| (`.*?` \\| .*?) \\| (.*?) \\|$").FindAllStringSubmatch(table, -1) {
		reasons[m[1]] = m[2]
	}
	lines := "| where | Gondola | why |\n|---|---|---|\n"
	for _, d := range slices.Sorted(maps.Keys(found)) {
		if _, told := reasons[d]; !told && !*update {
			t.Errorf("docs/api.md does not tell this deviation: %s", d)
		} else if reasons[d] == "" {
			t.Errorf("docs/api.md gives no reason for: %s", d)
		}
		lines += "| " + d + " | " + reasons[d] + " |\n"
	}
	for d := range reasons {
		if !found[d] && !*update {
			t.Errorf("docs/api.md tells a deviation that is none: %s", d)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+deviationsBegin+lines+deviationsEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// described calls operations and holds their answers against the document.
type described struct {
	*server
	own  *spec
	seen map[string]bool
}

// wants calls an operation and returns its answer; route is its path in the document.
func (d *described) call(method, route, path, body string, status int) object {
	d.t.Helper()
	got := d.server.call(method, path, body)
	if got.status != status {
		d.t.Fatalf("%s %s %s = %d %s, want %d", method, path, body, got.status, got.body, status)
	}
	d.seen[method+" "+route] = true
	op := d.own.Paths[route][strings.ToLower(method)]
	answer := at(op, "responses", strconv.Itoa(status))
	if status >= 400 {
		answer = at(op, "responses", "default")
	}
	if answer == nil {
		d.t.Fatalf("%s %s: the document knows no answer %d", method, route, status)
	}
	schema := at(answer, "content", "application/json", "schema")
	if schema == nil {
		if got.body != "" && at(answer, "content") == nil {
			d.t.Errorf("%s %s has a body that the document does not tell: %s", method, route, got.body)
		}
		return nil
	}
	var v any
	if err := json.Unmarshal([]byte(got.body), &v); err != nil {
		d.t.Fatalf("%s %s: %v in %s", method, route, err, got.body)
	}
	d.fits(method+" "+route, v, schema)
	o, _ := v.(object)
	return o
}

// fits checks a JSON value against a schema of our document; fields that the schema does not have are errors.
func (d *described) fits(where string, v any, schema object) {
	d.t.Helper()
	nullable := schema["nullable"] == true
	schema, _ = d.own.resolve(schema, "")
	allowed := kinds(schema)
	if len(allowed) == 0 || v == nil && nullable {
		return
	}
	is := map[bool]string{true: "integer", false: "number"}
	kind := ""
	switch v := v.(type) {
	case bool:
		kind = "boolean"
	case string:
		kind = "string"
	case float64:
		kind = is[v == float64(int64(v)) && !slices.Contains(allowed, "number")]
	case []any:
		kind = "array"
		for _, e := range v {
			d.fits(where+"[]", e, at(schema, "items"))
		}
	case object:
		kind = "object"
		values := at(schema, "additionalProperties")
		for name, inner := range v {
			property := at(schema, "properties", name)
			switch {
			case values != nil:
				d.fits(where+"{}", inner, values)
			case property != nil:
				d.fits(where+"."+name, inner, property)
			default:
				d.t.Errorf("%s has a field %q that the document does not tell", where, name)
			}
		}
	}
	if !slices.Contains(allowed, kind) {
		d.t.Errorf("%s is %v, which is not %v", where, v, allowed)
	}
}

func TestOpenAPI_DescribesWhatIsSent(t *testing.T) {
	s := newServer(t)
	d := &described{s, ownSpec(t, s), map[string]bool{}}
	const app, machine, volume = "/v1/apps/{app}", "/v1/apps/{app}/machines/{id}", "/v1/apps/{app}/volumes/{volume}"
	d.call("POST", "/v1/apps", "/v1/apps", `{"app_name":"tour","org_slug":"personal"}`, 201)
	d.call("GET", "/v1/apps", "/v1/apps?limit=1", "", 200)
	d.call("GET", app, "/v1/apps/tour", "", 200)
	m := d.call("POST", app+"/machines", "/v1/apps/tour/machines", `{"name":"one","lease_ttl":1,"config":{"image":"test/app","init":{"cmd":["trap"]},"metadata":{"a":"b"},"env":{"A":"B"},
		"services":[{"internal_port":80,"protocol":"tcp","autostop":"stop","ports":[{"port":8080}]}],"stop_config":{"signal":"SIGTERM","timeout":"1s"},
		"checks":{"up":{"type":"tcp","port":80,"interval":"15s"}},"guest":{"cpu_kind":"shared","cpus":1,"memory_mb":256}}}`, 200)
	one := "/v1/apps/tour/machines/" + text(m, "id")
	s.headers = http.Header{"Fly-Machine-Lease-Nonce": {text(m, "nonce")}}
	d.call("DELETE", machine+"/lease", one+"/lease", "", 200)
	s.headers = nil
	d.call("GET", machine+"/wait", one+"/wait?timeout=20", "", 200)
	lease := d.call("POST", machine+"/lease", one+"/lease", `{"ttl":60}`, 201)
	d.call("GET", machine+"/lease", one+"/lease", "", 200)
	d.call("GET", app+"/machines", "/v1/apps/tour/machines?include_leases=true", "", 200)
	d.call("POST", machine+"/cordon", one+"/cordon", "", 409)
	s.headers = http.Header{"Fly-Machine-Lease-Nonce": {text(at(lease, "data"), "nonce")}}
	for _, step := range []string{"cordon", "uncordon", "stop", "start", "restart"} {
		d.call("POST", machine+"/"+step, one+"/"+step, "", 200)
		d.call("GET", machine+"/wait", one+"/wait?state=settled&timeout=20", "", 200)
	}
	d.call("GET", machine+"/memory", one+"/memory", "", 200)
	d.call("PUT", machine+"/memory", one+"/memory", `{"limit_mb":512}`, 200)
	d.call("POST", machine, one, `{"config":{"image":"test/app","init":{"cmd":["trap"]}}}`, 200)
	d.call("GET", machine+"/wait", one+"/wait?timeout=20", "", 200)
	d.call("GET", machine, one, "", 200)
	for _, step := range []string{"suspend", "start"} {
		d.call("POST", machine+"/"+step, one+"/"+step, "", 200)
		d.call("GET", machine+"/wait", one+"/wait?state=settled&timeout=20", "", 200)
	}
	for _, part := range []string{"versions", "events", "ps", "metadata"} {
		d.call("GET", machine+"/"+part, one+"/"+part, "", 200)
	}
	d.call("PUT", machine+"/metadata", one+"/metadata", `{"metadata":{"x":"y"}}`, 204)
	d.call("PATCH", machine+"/metadata", one+"/metadata", `{"metadata":{"z":"1"}}`, 204)
	d.call("POST", machine+"/metadata/{key}", one+"/metadata/k", `{"value":"v"}`, 204)
	d.call("GET", machine+"/metadata/{key}", one+"/metadata/k", "", 200)
	d.call("DELETE", machine+"/metadata/{key}", one+"/metadata/k", "", 204)
	d.call("POST", machine+"/exec", one+"/exec", `{"command":["/program","print","hi"]}`, 200)
	d.call("POST", machine+"/signal", one+"/signal", `{"signal":"SIGUSR1"}`, 200)
	d.call("GET", "/v1/orgs/{org}/machines", "/v1/orgs/personal/machines?limit=1", "", 200)
	v := d.call("POST", app+"/volumes", "/v1/apps/tour/volumes", `{"name":"data","size_gb":1}`, 200)
	disk := "/v1/apps/tour/volumes/" + text(v, "id")
	d.call("GET", app+"/volumes", "/v1/apps/tour/volumes", "", 200)
	d.call("GET", volume, disk, "", 200)
	d.call("PUT", volume, disk, `{"snapshot_retention":7}`, 200)
	d.call("PUT", volume+"/extend", disk+"/extend", `{"size_gb":2}`, 200)
	snapshot := d.call("POST", volume+"/snapshots", disk+"/snapshots", "", 200)
	d.call("GET", volume+"/snapshots", disk+"/snapshots", "", 200)
	d.call("GET", "/v1/gondola/apps/{app}/snapshots", "/v1/gondola/apps/tour/snapshots", "", 200)
	d.call("GET", "/v1/orgs/{org}/volumes", "/v1/orgs/-/volumes", "", 200)
	d.call("DELETE", "/v1/gondola/apps/{app}/volumes/{volume}/snapshots/{snapshot}", "/v1/gondola/apps/tour/volumes/-/snapshots/"+text(snapshot, "id"), "", 200)
	const ownVolume = "/v1/gondola/apps/{app}/volumes/{volume}"
	own := strings.Replace(disk, "/v1", "/v1/gondola", 1)
	d.call("DELETE", volume, disk, "", 200)
	d.call("POST", ownVolume+"/recover", own+"/recover", "", 200)
	d.call("DELETE", ownVolume, own, "", 200)
	d.call("POST", app+"/secrets", "/v1/apps/tour/secrets", `{"values":{"A":"a","B":"b"}}`, 200)
	d.call("POST", app+"/secrets/{name}", "/v1/apps/tour/secrets/C", `{"value":"c"}`, 201)
	d.call("GET", app+"/secrets", "/v1/apps/tour/secrets?show_secrets=true", "", 200)
	d.call("GET", app+"/secrets/{name}", "/v1/apps/tour/secrets/C", "", 200)
	d.call("DELETE", app+"/secrets/{name}", "/v1/apps/tour/secrets/C", "", 200)
	d.call("POST", "/v1/gondola/secrets/key", "/v1/gondola/secrets/key", "", 200)
	deploy := d.call("POST", app+"/deploy_token", "/v1/apps/tour/deploy_token", `{"expiry":"1h"}`, 200)
	header := `{"header":"Bearer ` + text(deploy, "token") + `"`
	d.call("GET", "/v1/tokens/current", "/v1/tokens/current", "", 200)
	d.call("POST", "/v1/tokens/authenticate", "/v1/tokens/authenticate", header+`}`, 200)
	d.call("POST", "/v1/tokens/authorize", "/v1/tokens/authorize", header+`,"access":{"app_name":"tour","action":"r"}}`, 200)
	made := d.call("POST", "/v1/gondola/tokens", "/v1/gondola/tokens", `{"name":"short"}`, 201)
	d.call("GET", "/v1/gondola/tokens", "/v1/gondola/tokens", "", 200)
	d.call("DELETE", "/v1/gondola/tokens/{token}", "/v1/gondola/tokens/"+text(made, "id"), "", 200)
	d.call("GET", "/v1/gondola/orgs", "/v1/gondola/orgs", "", 200)
	p := d.call("POST", app+"/network_policies", "/v1/apps/tour/network_policies", `{"name":"web","selector":{"all":true},"rules":[{"action":"allow","direction":"ingress","ports":[{"protocol":"tcp","port":80}]}]}`, 200)
	d.call("GET", app+"/network_policies", "/v1/apps/tour/network_policies", "", 200)
	d.call("DELETE", app+"/network_policies/{policy}", "/v1/apps/tour/network_policies/"+text(p, "id"), "", 200)
	d.call("POST", "/v1/platform/placements", "/v1/platform/placements", `{"org_slug":"personal","count":1}`, 200)
	d.call("GET", "/v1/platform/regions", "/v1/platform/regions", "", 200)
	for _, path := range []string{"", "/stats", "/entrances", "/images"} {
		d.call("GET", "/v1/gondola"+path, "/v1/gondola"+path, "", 200)
	}
	d.call("DELETE", "/v1/gondola/images", "/v1/gondola/images", "", 200)
	d.call("POST", "/v1/gondola/ask", "/v1/gondola/ask", `{"requests":{"cpu_millis":100}}`, 200)
	d.call("PUT", "/v1/gondola/networks/{network}/services", "/v1/gondola/networks/default/services", `[]`, 200)
	d.call("PUT", "/v1/gondola/networks/{network}/policies/{owner}", "/v1/gondola/networks/default/policies/test", `{"policies":[]}`, 200)
	d.call("PUT", "/v1/gondola/apps/{app}/machines/{id}/payload", strings.Replace(one, "/v1", "/v1/gondola", 1)+"/payload", `{}`, 200)
	d.call("PUT", "/v1/gondola/apps/{app}/machines/{id}/secrets", strings.Replace(one, "/v1", "/v1/gondola", 1)+"/secrets", `{}`, 200)
	d.call("DELETE", machine, one+"?force=true", "", 200)
	d.call("DELETE", app, "/v1/apps/tour", "", 202)

	// What is left are streams, and what this platform of one fake worker has no part for.
	left := regexp.MustCompile(`/(watch|logs|exec|attach|dial|containers|size)$|^POST /v1/gondola/images$`)
	for path, methods := range d.own.Paths {
		for method, op := range methods {
			name := strings.ToUpper(method) + " " + path
			if at(op, "responses", "501") == nil && !d.seen[name] && !(strings.Contains(name, "/v1/gondola") && left.MatchString(name)) {
				t.Errorf("%s was not compared with what the document says", name)
			}
		}
	}
}
