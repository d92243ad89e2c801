// Package api serves the Machines API over HTTP: Fly.io's public routes under /v1 and Gondola's own under /v1/gondola.
//
// It owns paths, access, bodies and the only map of errors to statuses, and knows nothing of placement or of how Machines run: it serves any
// gondola.Platform, be it a whole server's or one worker's. No route works without a token or a server's certificate, but for the description of
// them all (/openapi.json, and /docs for people), which is made of the route table and the Go types and says nothing of the platform. Payloads of Machines
// pass through and are in no answer and no log line.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"gondola"
	"gondola/internal/auth"
)

// Config is what an API serves.
type Config struct {
	// Server does the work. Where it is a gondola.Apps and a gondola.Market too, the routes of Apps and of the platform are served; on a bare
	// worker they answer 501.
	Server gondola.Platform
	Auth   Authenticator
	Log    *slog.Logger // If nil, slog.Default().
	// Version of the platform, told by GET /v1/gondola. If empty, "dev".
	Version string
	// Observe hears of every answer of a route, "GET /v1/apps/{app}", and how long it took; streams count until they end. If nil, nobody does.
	Observe func(route string, status int, took time.Duration)
	// Metrics serves GET /metrics to those who may look at the platform, MachineMetrics GET /metrics/machines; if nil, it is not there.
	Metrics, MachineMetrics http.Handler
	// Limits bound how often something may be asked for. If nil, nothing does.
	Limits *Limits
	// Info is further JSON for GET /v1/gondola; if nil, none.
	Info func() []byte
}

// Authenticator says who sent a request, or ErrUnauthorized. *auth.Authority and auth.ServersOnly are such.
type Authenticator interface {
	Authenticate(r *http.Request) (auth.Principal, error)
}

// API is the handler.
type API struct {
	server   gondola.Platform
	apps     gondola.Apps            // nil on a worker
	market   gondola.Market          // nil on a worker
	policies gondola.NetworkPolicies // nil on a worker
	secrets  gondola.Secrets         // nil on a worker
	auth     Authenticator
	tokens   *auth.Authority // nil on a worker
	limiter  *limiter        // nil: no limits
	log      *slog.Logger
	version  string
	info     func() []byte
	observe  func(route string, status int, took time.Duration)
	mux      *http.ServeMux
}

// New returns the handler of the API.
func New(cfg Config) http.Handler {
	a := &API{server: cfg.Server, auth: cfg.Auth, log: cfg.Log, version: cfg.Version, info: cfg.Info, observe: cfg.Observe, mux: http.NewServeMux()}
	a.apps, _ = cfg.Server.(gondola.Apps)
	a.market, _ = cfg.Server.(gondola.Market)
	a.policies, _ = cfg.Server.(gondola.NetworkPolicies)
	a.secrets, _ = cfg.Server.(gondola.Secrets)
	a.tokens, _ = cfg.Auth.(*auth.Authority)
	if cfg.Limits != nil {
		a.limiter = newLimiter(*cfg.Limits)
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	if a.version == "" {
		a.version = "dev"
	}
	routes := a.routes()
	for path, h := range map[string]http.Handler{"/metrics": cfg.Metrics, "/metrics/machines": cfg.MachineMetrics} {
		if h != nil {
			routes = append(routes, route{"GET", path, looks, 0, func(c *call) error { h.ServeHTTP(c.w, c.Request); return nil }})
		}
	}
	for _, r := range routes {
		a.mux.Handle(r.method+" "+r.path, a.guard(r))
	}
	asJSON, asPage := manual(a.version)
	a.mux.HandleFunc("GET /openapi.json", asJSON)
	a.mux.HandleFunc("GET /docs", asPage)
	a.mux.HandleFunc("/", a.unknown)
	return a
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	id := gondola.NewULID(begin)
	w.Header().Set("fly-request-id", id)
	rec := &recorder{ResponseWriter: w}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			a.log.Error("panic while answering", "request", id, "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if rec.code == 0 {
				writeError(rec, errors.New("internal error: see the log of the server for request "+id))
			}
		}
		a.log.Debug("answered", "request", id, "method", r.Method, "path", r.URL.Path, "status", rec.code, "took", time.Since(begin))
	}()
	if hasDots(r.URL.EscapedPath()) {
		a.unknown(rec, r)
		return
	}
	if len(r.URL.Path) > 1 && strings.HasSuffix(r.URL.Path, "/") {
		r = trimSlash(r)
	}
	a.mux.ServeHTTP(rec, r)
}

// hasDots says whether an element of a path is "." or "..". http.ServeMux redirects such a path, with its method, to what lies above: a DELETE of
// something called ".." would take all that it is in.
func hasDots(path string) bool {
	for e := range strings.SplitSeq(path, "/") {
		if e == "." || e == ".." {
			return true
		}
	}
	return false
}

// trimSlash returns the request without the slashes at the end of its path: clients send both forms.
func trimSlash(r *http.Request) *http.Request {
	u := *r.URL
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	r2 := r.WithContext(r.Context())
	r2.URL = &u
	return r2
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// call is one request on its way through a handler.
type call struct {
	*http.Request
	w    http.ResponseWriter
	who  auth.Principal // the one that may
	came auth.Principal // the one that came, with all of its tokens
}

func (c *call) ctx() context.Context { return c.Context() }

func (c *call) app() gondola.AppName { return gondola.AppName(c.PathValue("app")) }

func (c *call) ref() gondola.Ref {
	return gondola.Ref{App: c.app(), ID: gondola.MachineID(c.PathValue("id"))}
}

// send answers with JSON.
func (c *call) send(code int, v any) error { return writeJSON(c.w, code, v) }

// ok answers what Fly.io's API does where there is nothing to say.
func (c *call) ok() error { return c.send(http.StatusOK, okAnswer{true}) }

// guard authenticates, checks the access that the route wants, runs its handler and turns its error into an answer.
func (a *API) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.observe != nil {
			began, rec := time.Now(), &recorder{ResponseWriter: w}
			w = rec
			defer func() { a.observe(rt.method+" "+rt.path, rec.code, time.Since(began)) }()
		}
		who, err := a.auth.Authenticate(r)
		c := &call{Request: r, w: w, who: who, came: who}
		if err == nil {
			err = a.permit(c, rt.access)
		}
		if err == nil {
			err = a.limit(c, rt)
		}
		if err == nil {
			ctx, end := c.who.Session(r.Context())
			defer end()
			c.Request = accompanied(r.WithContext(ctx), c.who)
			if rt.body > 0 {
				c.Body = http.MaxBytesReader(w, c.Body, rt.body)
			}
			err = rt.handle(c)
		}
		if err == nil {
			return
		}
		if code := writeError(w, err); code == http.StatusInternalServerError {
			a.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "who", who.Name, "err", err)
		}
	})
}

// accompanied returns the request with what goes along with its calls. A server calls for somebody else.
func accompanied(r *http.Request, who auth.Principal) *http.Request {
	caller := who.Name
	if name := r.Header.Get("gondola-caller"); who.Server && name != "" {
		caller = name
	}
	return r.WithContext(gondola.WithLease(gondola.WithCaller(r.Context(), caller), r.Header.Get("fly-machine-lease-nonce")))
}

// unknown answers what no route takes; that too only to those who may ask.
func (a *API) unknown(w http.ResponseWriter, r *http.Request) {
	_, err := a.auth.Authenticate(r)
	if err == nil {
		err = noRoute{r.Method, r.URL.Path}
	}
	writeError(w, err)
}
