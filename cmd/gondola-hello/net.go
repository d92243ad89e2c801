package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// addresses lists what this Machine is reached at, IPv4 first.
func addresses() (list []string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var v6 []string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue
		}
		if p.Addr().Is4() {
			list = append(list, p.Addr().String())
		} else {
			v6 = append(v6, p.Addr().String())
		}
	}
	return append(list, v6...)
}

// ip lists interfaces with their addresses, whatever is asked.
func ip(t *tool) int {
	ifs, err := net.Interfaces()
	if err != nil {
		return t.fail1(err)
	}
	for _, i := range ifs {
		fmt.Fprintf(t.out, "%d: %s: <%s> mtu %d\n", i.Index, i.Name, strings.ToUpper(i.Flags.String()), i.MTU)
		if len(i.HardwareAddr) > 0 {
			fmt.Fprintf(t.out, "    link %s\n", i.HardwareAddr)
		}
		addrs, err := i.Addrs()
		if err != nil {
			return t.fail1(err)
		}
		for _, a := range addrs {
			fmt.Fprintf(t.out, "    inet %s\n", a)
		}
	}
	return 0
}

func seconds(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 {
		return 0, fmt.Errorf("%q is no number of seconds", s)
	}
	return time.Duration(f * float64(time.Second)), nil
}

// request is what curl and wget have in common.
type request struct {
	method, url, body string
	headers           []string
	timeout           time.Duration
	insecure, follow  bool
	socket            string // of a unix socket to connect to instead
}

func (q request) do() (*http.Response, error) {
	if !strings.Contains(q.url, "://") {
		q.url = "http://" + q.url
	}
	var body io.Reader
	if q.body != "" {
		body = strings.NewReader(q.body)
	}
	req, err := http.NewRequest(q.method, q.url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "curl/8.0 (gondola-hello)")
	req.Header.Set("Accept", "*/*")
	if q.body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range q.headers {
		name, value, _ := strings.Cut(h, ":")
		if strings.EqualFold(name, "host") {
			req.Host = strings.TrimSpace(value)
		}
		req.Header.Set(name, strings.TrimSpace(value))
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{InsecureSkipVerify: q.insecure}}
	if q.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", q.socket)
		}
	}
	client := http.Client{Timeout: q.timeout, Transport: transport}
	if !q.follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return client.Do(req)
}

// curlCode is curl's exit code for an error.
func curlCode(err error) int {
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &dns):
		return 6
	case errors.As(err, &timeout) && timeout.Timeout():
		return 28
	}
	return 7
}

// curl knows -s -S -f -i -I -k -L -v, -o file, -d data, -X method, -H header (once), -m seconds, -w format, --unix-socket path.
func curl(t *tool) int {
	var headers, args []string
	for i := 0; i < len(t.args); i++ { // the one option that comes several times
		if t.args[i] == "-H" && i+1 < len(t.args) {
			i++
			headers = append(headers, t.args[i])
			continue
		}
		args = append(args, t.args[i])
	}
	t.args = args
	o, urls, err := t.options("sSfiIkLvgN46", "odXmw", "unix-socket=", "connect-timeout=", "max-time=", "fail", "silent", "insecure", "retry=")
	if err != nil || len(urls) != 1 {
		return t.failf(2, "curl [-sfiIkL] [-o file] [-d data] [-X method] [-H header] [-m seconds] [-w format] url (%v)", err)
	}
	q := request{method: http.MethodGet, url: urls[0], body: o["d"], headers: headers, insecure: o.has("k") || o.has("insecure"), follow: o.has("L"), socket: o["unix-socket"]}
	for _, name := range []string{"connect-timeout", "max-time", "m"} {
		if o.has(name) {
			if q.timeout, err = seconds(o[name]); err != nil {
				return t.failf(2, "%v", err)
			}
		}
	}
	switch {
	case o["X"] != "":
		q.method = o["X"]
	case o.has("I"):
		q.method = http.MethodHead
	case o.has("d"):
		q.method = http.MethodPost
	}
	res, err := q.do()
	if err != nil {
		if o.has("w") {
			fmt.Fprint(t.out, strings.NewReplacer("%{http_code}", "000", `\n`, "\n").Replace(o["w"]))
		}
		if (o.has("s") || o.has("silent")) && !o.has("S") {
			return curlCode(err)
		}
		return t.failf(curlCode(err), "%v", err)
	}
	defer res.Body.Close()
	return t.answer(res, o)
}

// answer writes what came back as curl does.
func (t *tool) answer(res *http.Response, o options) int {
	if res.StatusCode >= 400 && (o.has("f") || o.has("fail")) {
		return t.failf(22, "the server said %s", res.Status)
	}
	if o.has("i") || o.has("I") || o.has("v") {
		fmt.Fprintf(t.out, "%s %s\r\n", res.Proto, res.Status)
		if err := res.Header.Write(t.out); err != nil {
			return t.fail1(err)
		}
		fmt.Fprint(t.out, "\r\n")
	}
	var out io.Writer = flushing{t}
	if f := o["o"]; f != "" && f != "-" {
		file, err := os.Create(f)
		if err != nil {
			return t.failf(23, "%v", err)
		}
		defer file.Close()
		out = file
	}
	if _, err := io.Copy(out, res.Body); err != nil {
		return t.failf(curlCode(err), "%v", err)
	}
	if o.has("w") {
		fmt.Fprint(t.out, strings.NewReplacer("%{http_code}", strconv.Itoa(res.StatusCode), `\n`, "\n").Replace(o["w"]))
	}
	return 0
}

// flushing shows a stream as it comes.
type flushing struct{ t *tool }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.t.out.Write(p)
	if err == nil {
		err = f.t.out.Flush()
	}
	return n, err
}

// wget knows -q, -O file, -T seconds, --spider and --no-check-certificate.
func wget(t *tool) int {
	o, urls, err := t.options("qS", "OTt", "spider", "no-check-certificate", "timeout=", "tries=", "post-data=", "header=")
	if err != nil || len(urls) != 1 {
		return t.failf(2, "wget [-q] [-O file] [-T seconds] [--spider] url (%v)", err)
	}
	limit := o["T"]
	if o["timeout"] != "" {
		limit = o["timeout"]
	}
	timeout, err := seconds(limit)
	if err != nil {
		return t.failf(2, "%v", err)
	}
	q := request{method: http.MethodGet, url: urls[0], body: o["post-data"], timeout: timeout, follow: true, insecure: o.has("no-check-certificate")}
	if o.has("post-data") {
		q.method = http.MethodPost
	}
	if o.has("header") {
		q.headers = []string{o["header"]}
	}
	res, err := q.do()
	if err != nil {
		return t.fail1(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 {
		return t.failf(1, "server returned error: %s %s", res.Proto, res.Status)
	}
	if o.has("spider") {
		return 0
	}
	file := o["O"]
	if file == "" {
		if file = path.Base(res.Request.URL.Path); file == "/" || file == "." {
			file = "index.html"
		}
	}
	return t.answer(res, options{"o": file})
}

// nslookup resolves names, asking the second argument where there is one.
func nslookup(t *tool) int {
	_, args, err := t.options("", "t", "type=")
	args = dropTypes(args)
	if err != nil {
		args = dropTypes(t.args)
	}
	if len(args) == 0 {
		return t.failf(2, "%s name [server]", t.name)
	}
	r := &net.Resolver{PreferGo: true}
	if len(args) > 1 {
		server := args[1]
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(server, "53")
		}
		r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server)
		}
		fmt.Fprintf(t.out, "Server:\t%s\n\n", server)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if addr, err := netip.ParseAddr(args[0]); err == nil {
		names, err := r.LookupAddr(ctx, addr.String())
		if err != nil {
			return t.fail1(err)
		}
		for _, n := range names {
			fmt.Fprintf(t.out, "Address:\t%s\nName:\t%s\n", addr, n)
		}
		return 0
	}
	found, err := r.LookupHost(ctx, args[0])
	if err != nil {
		return t.fail1(err)
	}
	for _, a := range found {
		fmt.Fprintf(t.out, "Name:\t%s\nAddress:\t%s\n", args[0], a)
	}
	return 0
}

// dropTypes leaves out -type=a and the like: both families are always asked.
func dropTypes(args []string) (rest []string) {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			rest = append(rest, a)
		}
	}
	return rest
}

// nc connects its input and output: nc [-u] [-w s] [-z] host port, nc -U path; with -l it listens (nc -l [-p] port, nc -lU path), with -k
// again and again.
func nc(t *tool) int {
	o, args, err := t.options("luUzkvn46N", "pw")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	timeout, err := seconds(o["w"])
	if err != nil {
		return t.failf(2, "%v", err)
	}
	if p := o["p"]; p != "" {
		args = append(args, p)
	}
	network, address := "tcp", ""
	switch {
	case o.has("U") && len(args) == 1:
		network, address = "unix", args[0]
	case len(args) == 2:
		address = net.JoinHostPort(args[0], args[1])
	case len(args) == 1 && o.has("l"):
		address = ":" + args[0]
	default:
		return t.failf(2, "nc [-u] [-w s] [-z] host port, nc -l port, nc [-l] -U path")
	}
	if o.has("u") {
		network = "udp"
	}
	if o.has("l") {
		return t.listen(network, address, o.has("k"))
	}
	c, err := (&net.Dialer{Timeout: timeout}).Dial(network, address)
	if err != nil {
		return t.fail1(err)
	}
	defer c.Close()
	if o.has("z") {
		return 0
	}
	return t.connect(c, c, timeout)
}

func (t *tool) listen(network, address string, again bool) int {
	if network == "udp" {
		pc, err := net.ListenPacket(network, address)
		if err != nil {
			return t.fail1(err)
		}
		defer pc.Close()
		buf := make([]byte, 65536)
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return t.fail1(err)
		}
		flushing{t}.Write(buf[:n])
		reply, err := io.ReadAll(t.in)
		if err == nil && len(reply) > 0 {
			_, err = pc.WriteTo(reply, from)
		}
		if err != nil {
			return t.fail1(err)
		}
		return 0
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return t.fail1(err)
	}
	defer l.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return t.fail1(err)
		}
		code := t.connect(c, c, 0)
		c.Close()
		if !again {
			return code
		}
	}
}

// connect copies both ways until the other side has no more to say. What is then on its way to it has half a second.
func (t *tool) connect(r io.Reader, w net.Conn, idle time.Duration) int {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.Copy(w, t.in); err != nil {
			return // the reading side tells why
		}
		if half, ok := w.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	if idle > 0 {
		w.SetReadDeadline(time.Now().Add(idle))
	}
	if _, err := io.Copy(flushing{t}, r); err != nil && !os.IsTimeout(err) {
		return t.fail1(err)
	}
	select {
	case <-sent:
	case <-time.After(500 * time.Millisecond): // a terminal or an open pipe
	}
	return 0
}
