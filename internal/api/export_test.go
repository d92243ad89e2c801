package api

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
)

// RouteTable returns method and path of every route.
func RouteTable() (routes [][2]string) {
	for _, r := range new(API).routes() {
		routes = append(routes, [2]string{r.method, r.path})
	}
	return routes
}

// Operations returns what operations.go describes, "METHOD path".
func Operations() (names []string) {
	for name := range operations() {
		names = append(names, name)
	}
	return names
}

// Words is the splitting of a command line.
var Words = words

// Spend is the decision of the limiter.
var Spend = spend

// Decode is the decoder of bodies.
func Decode(b []byte, v any) error {
	return (&call{Request: &http.Request{Body: io.NopCloser(bytes.NewReader(b))}}).decode(v)
}

// ReadQuery reads all that any route reads of a query.
func ReadQuery(r *http.Request) {
	c := &call{Request: r, w: httptest.NewRecorder()}
	c.filter()
	c.logOptions()
	c.metadata()
	c.seconds("timeout")
	c.number("ttl")
	c.list("state")
	page(c, []string{"a", "b", "c"}, func(s string) place { return place{id: s} })
}

// Flushing is the writer of logs.
func Flushing(w http.ResponseWriter) io.Writer { return flushing(w) }
