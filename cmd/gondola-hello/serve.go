package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Self is what the server knows of the Machine it runs in.
type Self struct {
	Host      string              `json:"host"`
	Pod       string              `json:"pod,omitempty"`
	Namespace string              `json:"namespace,omitempty"`
	Machine   string              `json:"machine,omitempty"`
	App       string              `json:"app,omitempty"`
	Region    string              `json:"region,omitempty"`
	Addresses []string            `json:"addresses"`
	Peers     map[string][]string `json:"peers,omitempty"` // name → addresses, or why there are none
	Up        string              `json:"up"`
	Requests  int64               `json:"requests"`
	Client    string              `json:"client"`
	Request   string              `json:"request"`
	Headers   []string            `json:"headers"`
}

type server struct {
	started  time.Time
	requests atomic.Int64
	exit     chan int // exit codes asked for
	out      io.Writer
}

// serve is the web server: / shows this Machine, /healthz says ok, to grpc health checks too, /exit?code=3 ends it.
func serve(t *tool) int {
	port := cmp.Or(os.Getenv("PORT"), "8080")
	if len(t.args) > 0 {
		port = t.args[0]
	}
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return t.fail1(err)
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	s := &server{started: time.Now(), exit: make(chan int, 1), out: os.Stdout}
	mux := http.NewServeMux()
	mux.HandleFunc("/", s.hello)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/exit", s.quit)
	mux.HandleFunc("POST /grpc.health.v1.Health/Check", health)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Server{Handler: s.logged(mux), ReadHeaderTimeout: 10 * time.Second, Protocols: &protocols}
	s.log("listening on %s, addresses %s", l.Addr(), strings.Join(addresses(), " "))
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	code := 0
	select {
	case err := <-failed:
		return t.fail1(err)
	case code = <-s.exit:
		s.log("asked to exit with code %d", code)
	case <-stop.Done():
		s.log("told to stop, finishing what runs")
	}
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if err := h.Shutdown(ctx); err != nil {
		s.log("requests that did not end are cut off: %v", err)
	}
	s.log("stopped")
	return code
}

func (s *server) log(format string, args ...any) {
	fmt.Fprintf(s.out, "%s "+format+"\n", append([]any{time.Now().UTC().Format("2006-01-02T15:04:05.000Z")}, args...)...)
}

// logged prints a line for every request.
func (s *server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		began, rec := time.Now(), &recorder{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(rec, r)
		s.log("%s %s %d %.1fms %s %q", r.Method, r.URL.RequestURI(), rec.code, float64(time.Since(began).Microseconds())/1000, r.RemoteAddr, r.UserAgent())
	})
}

type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

func (s *server) quit(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(cmp.Or(r.FormValue("code"), "0"))
	if err != nil || code < 0 || code > 255 {
		http.Error(w, "code is a number from 0 to 255", http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "exiting with code %d\n", code)
	select {
	case s.exit <- code:
	default: // somebody asked before
	}
}

func (s *server) hello(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	self := s.self(r)
	accept := r.Header.Get("Accept")
	var err error
	switch {
	case strings.Contains(accept, "application/json"):
		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(w).Encode(self)
	case strings.Contains(accept, "text/html"):
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		err = page.Execute(w, self)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, err = io.WriteString(w, self.text())
	}
	if err != nil {
		s.log("answer: %v", err)
	}
}

// self collects what is known. Platform and Pod tell it by variables and files; what they do not tell stays empty.
func (s *server) self(r *http.Request) Self {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	namespace, err := os.ReadFile(accountDir + "/namespace")
	if err != nil {
		namespace = nil // not in a Pod
	}
	self := Self{
		Host: host, Pod: os.Getenv("POD_NAME"), Namespace: cmp.Or(os.Getenv("POD_NAMESPACE"), string(namespace)),
		Machine: os.Getenv("FLY_MACHINE_ID"), App: os.Getenv("FLY_APP_NAME"), Region: os.Getenv("FLY_REGION"),
		Addresses: addresses(), Peers: peers(r.Context()), Up: time.Since(s.started).Round(time.Second).String(), Requests: s.requests.Load(),
		Client: r.RemoteAddr, Request: fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), r.Proto),
	}
	if self.Pod == "" && self.Namespace != "" {
		self.Pod = host // a Pod's hostname is its name
	}
	for name, values := range r.Header {
		for _, v := range values {
			self.Headers = append(self.Headers, name+": "+v)
		}
	}
	slices.Sort(self.Headers)
	self.Headers = append([]string{"Host: " + r.Host}, self.Headers...)
	return self
}

// peers resolves the names in PEERS, separated by commas: those of headless Services, or <app>.internal.
func peers(ctx context.Context) map[string][]string {
	names := strings.FieldsFunc(os.Getenv("PEERS"), func(r rune) bool { return r == ',' || r == ' ' })
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	found := map[string][]string{}
	for _, n := range names {
		addrs, err := net.DefaultResolver.LookupHost(ctx, n)
		if err != nil {
			addrs = []string{err.Error()}
		}
		slices.Sort(addrs)
		found[n] = addrs
	}
	return found
}

// rows are the facts, in the order in which people look for them.
func (s Self) rows() [][2]string {
	rows := [][2]string{{"pod", s.Pod}, {"namespace", s.Namespace}, {"machine", s.Machine}, {"app", s.App}, {"region", s.Region},
		{"addresses", strings.Join(s.Addresses, " ")}}
	for name, addrs := range s.Peers {
		rows = append(rows, [2]string{"peers " + name, strings.Join(addrs, " ")})
	}
	slices.SortFunc(rows[6:], func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	rows = append(rows, [2]string{"up", s.Up}, [2]string{"requests", strconv.FormatInt(s.Requests, 10)}, [2]string{"client", s.Client}, [2]string{"request", s.Request})
	return slices.DeleteFunc(rows, func(r [2]string) bool { return r[1] == "" })
}

// Rows is rows for the page.
func (s Self) Rows() [][2]string { return s.rows() }

func (s Self) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Hello from %s\n\n", s.Host)
	for _, r := range s.rows() {
		fmt.Fprintf(&b, "%-10s %s\n", r[0], r[1])
	}
	b.WriteByte('\n')
	for _, h := range s.Headers {
		fmt.Fprintln(&b, h)
	}
	return b.String()
}

var page = template.Must(template.New("hello").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Hello from {{.Host}}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; color: #1d2733; background: #f5f8fb }
h1 { font-size: 1.6rem } th { text-align: left; font-weight: 600; padding-right: 1.5rem; vertical-align: top; white-space: nowrap }
td { font-family: ui-monospace, monospace; font-size: .9rem; overflow-wrap: anywhere }
pre { background: #e7eef5; padding: 1rem; border-radius: .5rem; overflow: auto; font-size: .85rem }
@media (prefers-color-scheme: dark) { body { color: #dbe5ee; background: #12202b } pre { background: #1d3040 } }
</style>
<h1>Hello from {{.Host}}</h1>
<table>{{range .Rows}}<tr><th>{{index . 0}}</th><td>{{index . 1}}</td></tr>{{end}}</table>
<h2>Your request</h2>
<pre>{{range .Headers}}{{.}}
{{end}}</pre>
</html>
`))

var errNotInCluster = errors.New("this is no Pod of a cluster: KUBERNETES_SERVICE_HOST is not set")
