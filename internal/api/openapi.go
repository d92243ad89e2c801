package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"gondola"
)

// document is an OpenAPI 3.0 document of the routes, made of the route table, of what operations.go says of each and of the Go types that
// they read and write.
type document struct {
	OpenAPI    string                               `json:"openapi"`
	Info       docInfo                              `json:"info"`
	Servers    []map[string]string                  `json:"servers"`
	Security   []map[string][]string                `json:"security"`
	Paths      map[string]map[string]*docOperation  `json:"paths"` // path, method in lower case
	Components docComponents                        `json:"components"`
	order      []struct{ method, path, tag string } // of the route table
}

type docInfo struct {
	Title       string            `json:"title"`
	Version     string            `json:"version"`
	Description string            `json:"description"`
	License     map[string]string `json:"license"`
}

type docOperation struct {
	Tags       []string               `json:"tags"`
	ID         string                 `json:"operationId"`
	Summary    string                 `json:"summary"`
	Parameters []docParameter         `json:"parameters,omitempty"`
	Body       *docBody               `json:"requestBody,omitempty"`
	Responses  map[string]docResponse `json:"responses"`
}

type docParameter struct {
	Name        string  `json:"name"`
	In          string  `json:"in"` // path, query or header
	Required    bool    `json:"required,omitempty"`
	Description string  `json:"description,omitempty"`
	Schema      *schema `json:"schema"`
}

type docBody struct {
	Content map[string]docContent `json:"content"`
}

type docContent struct {
	Schema *schema `json:"schema"`
}

type docResponse struct {
	Description string                `json:"description"`
	Headers     map[string]docContent `json:"headers,omitempty"`
	Content     map[string]docContent `json:"content,omitempty"`
}

type docComponents struct {
	Schemas  map[string]*schema           `json:"schemas"`
	Security map[string]map[string]string `json:"securitySchemes"`
}

// describe makes the document. A route that operations.go does not know is left out; a test finds it.
func describe(version string) (*document, error) {
	texts, err := readComments(gondola.Source)
	if err != nil {
		return nil, err
	}
	s := &schemas{comments: texts, components: map[string]*schema{}, types: map[string]reflect.Type{}}
	d := &document{OpenAPI: "3.0.3",
		Info: docInfo{Title: "Gondola: the Machines API", Version: version, License: map[string]string{"name": "Apache-2.0"},
			Description: "Fly.io's Machines API under /v1, and what it lacks under /v1/gondola. Unknown fields of requests are accepted. Every error has an ErrorBody; " +
				"its details.kind says what is wrong: 400 the request cannot be read, 401 no valid token, 403 a token that does not reach so far, 404 no such thing, 408 a wait ran out, " +
				"409 somebody else changed or holds it, 412 not possible from the present state, 422 it says something impossible or no worker has room, 501 not part of this version, " +
				"503 a part does not answer."},
		Servers: []map[string]string{{"url": "/"}}, Security: []map[string][]string{{"token": {}}}, Paths: map[string]map[string]*docOperation{}}
	failure := docResponse{Description: "an error", Content: map[string]docContent{jsonType: {s.of(reflect.TypeFor[errorBody]())}}}
	known := operations()
	a := new(API)
	for _, r := range append(a.publicRoutes(), a.gondolaRoutes()...) {
		if op, ok := known[r.method+" "+r.path]; ok {
			d.add(r, op.describe(s, r, failure))
		}
	}
	for _, r := range a.missingRoutes() {
		d.add(r, &docOperation{Summary: "Not part of this version", Parameters: pathParameters(r.path),
			Responses: map[string]docResponse{"501": {"the error names what is missing", nil, failure.Content}}})
	}
	d.Components = docComponents{Schemas: s.components, Security: map[string]map[string]string{"token": {"type": "http", "scheme": "bearer"}}}
	return d, nil
}

const jsonType = "application/json"

func (d *document) add(r route, op *docOperation) {
	tag := tagOf(r.path)
	op.Tags, op.ID = []string{tag}, operationID(r)
	if d.Paths[r.path] == nil {
		d.Paths[r.path] = map[string]*docOperation{}
	}
	d.Paths[r.path][strings.ToLower(r.method)] = op
	d.order = append(d.order, struct{ method, path, tag string }{r.method, r.path, tag})
}

// describe makes the description of one route.
func (o operation) describe(s *schemas, r route, failure docResponse) *docOperation {
	out := &docOperation{Summary: o.title, Parameters: pathParameters(r.path)}
	for _, p := range o.query {
		out.Parameters = append(out.Parameters, docParameter{Name: p.name, In: "query", Description: p.text, Schema: &schema{Type: p.kind}})
	}
	if o.lease {
		out.Parameters = append(out.Parameters, docParameter{Name: "fly-machine-lease-nonce", In: "header", Description: "nonce of the Machine's lease, while somebody holds it", Schema: &schema{Type: "string"}})
	}
	if o.in != nil {
		out.Body = &docBody{map[string]docContent{jsonType: {s.of(reflect.TypeOf(o.in))}}}
	}
	if o.sends != "" {
		out.Body = &docBody{map[string]docContent{o.sends: {&schema{Type: "string", Format: "binary"}}}}
	}
	good := docResponse{Description: "done"}
	switch {
	case o.out != nil:
		good.Content = map[string]docContent{jsonType: {s.of(reflect.TypeOf(o.out))}}
	case o.stream != "":
		good.Content = map[string]docContent{o.stream: {&schema{Type: "string"}}}
	}
	if o.pages() {
		good.Headers = map[string]docContent{"fly-next-cursor": {&schema{Type: "string", Description: "the cursor of the next page, if there is one"}}}
	}
	out.Responses = map[string]docResponse{strconv.Itoa(o.code()): good, "default": failure}
	return out
}

var inBraces = regexp.MustCompile(`\{(\w+)\}`)

func pathParameters(path string) (out []docParameter) {
	for _, m := range inBraces.FindAllStringSubmatch(path, -1) {
		out = append(out, docParameter{Name: m[1], In: "path", Required: true, Schema: &schema{Type: "string"}})
	}
	return out
}

// tagOf groups paths by what they are about.
func tagOf(path string) string {
	for _, t := range []struct{ part, tag string }{{"/gondola", "Gondola"}, {"/machines", "Machines"}, {"/volumes", "Volumes"}, {"/network_policies", "Network policies"},
		{"/tokens", "Tokens"}, {"/secret", "Secrets"}, {"/certificates", "Certificates"}, {"/ip_assignments", "IP assignments"}, {"/platform", "Platform"}} {
		if strings.Contains(path, t.part) {
			return t.tag
		}
	}
	return "Apps"
}

// operationID is method and path as one word: "postAppsAppMachines".
func operationID(r route) string {
	var b strings.Builder
	b.WriteString(strings.ToLower(r.method))
	for _, word := range strings.FieldsFunc(strings.TrimPrefix(r.path, "/v1"), func(c rune) bool { return strings.ContainsRune("/{}_", c) }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

// manual is the document as it is served, made when it is first asked for.
func manual(version string) (asJSON, asPage http.HandlerFunc) {
	made := sync.OnceValues(func() (texts [2][]byte, err error) {
		d, err := describe(version)
		if err != nil {
			return texts, err
		}
		if texts[0], err = json.MarshalIndent(d, "", " "); err != nil {
			return texts, err
		}
		texts[1], err = d.page()
		return texts, err
	})
	serve := func(n int, contentType string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			texts, err := made()
			if err != nil {
				writeError(w, err)
				return
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
			w.Write(texts[n])
		}
	}
	return serve(0, "application/json; charset=utf-8"), serve(1, "text/html; charset=utf-8")
}
