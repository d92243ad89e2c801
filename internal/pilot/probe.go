package pilot

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gondola"
)

// prober probes the containers of a Machine from the host: http and tcp at the Machine's first address, or at the probe's own host, if elsewhere
// lets it; exec in the container. A Machine without addresses (fake) is reached through Runtime.Dial.
type prober struct {
	spec *Spec
	rt   Runtime
	exec func(ctx context.Context, container string, command []string, io gondola.ExecIO) (gondola.ExitStatus, error)
}

// probeKind is what a probe is for, in the kubelet's words.
type probeKind string

const (
	startupProbe   probeKind = "Startup"
	readinessProbe probeKind = "Readiness"
	livenessProbe  probeKind = "Liveness"
)

func kindOf(h gondola.Healthcheck) probeKind {
	switch {
	case h.Gondola != nil && h.Gondola.Startup:
		return startupProbe
	case h.Kind == "liveness" || h.Unhealthy == "stop":
		return livenessProbe
	default:
		return readinessProbe
	}
}

// has says whether the container has a probe of the kind.
func has(c *Container, kind probeKind) bool {
	for _, h := range c.Config.Healthchecks {
		if kindOf(h) == kind {
			return true
		}
	}
	return false
}

// watchHealth runs one probe until ctx ends, and reports every change of its outcome: the first one, and each time the threshold is reached.
// A probe that cannot be run has no outcome, as with a kubelet. age is how long the container runs already.
func (p *prober) watchHealth(ctx context.Context, c *Container, h gondola.Healthcheck, age time.Duration, failed func(output string, err error), report func(ok bool) (goOn bool)) {
	interval := orDefault(h.Interval, 10) * time.Second
	successes, failures := int(orDefault(h.SuccessThreshold, 1)), int(orDefault(h.FailureThreshold, 3))
	wait := max(0, time.Duration(h.GracePeriod)*time.Second-age)
	run, last := 0, false
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		ok, output, err := p.probe(ctx, c, h)
		if ctx.Err() != nil {
			return
		}
		if !ok {
			failed(output, err)
		}
		switch {
		case err != nil: // it says nothing of the container
		case ok == last:
			run++
		default:
			run, last = 1, ok
		}
		if err == nil && (ok && run >= successes || !ok && run >= failures) {
			if !report(ok) {
				return
			}
		}
		timer.Reset(max(0, interval-time.Since(began)))
	}
}

func orDefault(n, d int) time.Duration {
	if n == 0 {
		n = d
	}
	return time.Duration(n)
}

// probe does one probe; output says why it failed, err that it could not be done at all.
func (p *prober) probe(ctx context.Context, c *Container, h gondola.Healthcheck) (ok bool, output string, err error) {
	timeout := orDefault(h.Timeout, 1) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	host := ""
	if h.Gondola != nil {
		host = h.Gondola.Host
	}
	switch {
	case h.Exec != nil:
		return p.probeExec(ctx, c, h.Exec.Command, timeout)
	case h.HTTP != nil:
		return p.probeHTTP(ctx, host, h.HTTP, timeout)
	case h.TCP != nil:
		conn, err := p.dial(ctx, host, h.TCP.Port)
		if err != nil {
			return false, err.Error(), nil
		}
		conn.Close()
		return true, "", nil
	case h.Gondola != nil && h.Gondola.GRPC != nil:
		ok, output := p.probeGRPC(ctx, host, h.Gondola.GRPC)
		return ok, output, nil
	default:
		return false, "", gondola.Errorf(gondola.ErrInvalid, "probe %q of container %s has none of http, tcp, exec and grpc", h.Name, c.Name)
	}
}

func (p *prober) probeExec(ctx context.Context, c *Container, cmd []string, timeout time.Duration) (bool, string, error) {
	var out limited
	status, err := p.exec(ctx, c.Name, cmd, gondola.ExecIO{Stdout: &out, Stderr: &out})
	switch {
	case ctx.Err() != nil:
		return false, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(cmd, " "), timeout), nil
	case err != nil:
		return false, "", err
	default:
		return status.Code == 0, out.String(), nil
	}
}

func (p *prober) probeHTTP(ctx context.Context, host string, h *gondola.HTTPProbe, timeout time.Duration) (bool, string, error) {
	status, body, err := p.get(ctx, host, h)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return false, fmt.Sprintf("%v (Client.Timeout exceeded while awaiting headers after %s)", err, timeout), nil
		}
		return false, err.Error(), nil
	}
	if status < 200 || status >= 400 {
		return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", status), nil
	}
	return true, body, nil
}

// get does an HTTP request to the Machine, of a probe or a hook.
func (p *prober) get(ctx context.Context, host string, h *gondola.HTTPProbe) (status int, body string, err error) {
	scheme := strings.ToLower(h.Scheme)
	if scheme == "" {
		scheme = "http"
	}
	method, path := h.Method, h.Path
	if method == "" {
		method = http.MethodGet
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	at := host
	if at == "" {
		at = p.address()
	}
	url := scheme + "://" + net.JoinHostPort(at, strconv.Itoa(h.Port)) + path
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("User-Agent", "kube-probe/gondola")
	req.Header.Set("Accept", "*/*")
	setHeaders(req, h.Headers)
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: h.TLSSkipVerify == nil || *h.TLSSkipVerify, ServerName: h.TLSServerName},
		DialContext:     func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dialAddr(ctx, host, addr) }}
	client := &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		if to.URL.Hostname() != req.URL.Hostname() || len(via) >= 10 {
			return http.ErrUseLastResponse // a redirect elsewhere counts as passed
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 10<<10))
	return resp.StatusCode, string(data), err
}

func (p *prober) address() string {
	if len(p.spec.Addresses) > 0 {
		return p.spec.Addresses[0].String()
	}
	return "localhost"
}

func (p *prober) dialAddr(ctx context.Context, host, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	return p.dial(ctx, host, n)
}

// dial connects to host, or to the Machine.
func (p *prober) dial(ctx context.Context, host string, port int) (net.Conn, error) {
	// Loopback is the Machine's own: that of the host is nobody's business.
	if host == "" && (len(p.spec.Addresses) == 0 || p.spec.NetNS == "") || isLoopback(host) && p.spec.NetNS != "" {
		c, err := p.rt.Dial(ctx, port)
		if err != nil {
			return nil, err
		}
		return newConn(c), nil
	}
	if host == "" {
		host = p.address()
	} else if p.spec.NetNS != "" {
		a, err := p.elsewhere(ctx, host)
		if err != nil {
			return nil, err
		}
		host = a.String()
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
}

// elsewhere is the address of a host that a probe names. It is dialled from the platform's host, so nothing is reached that only that host can:
// what listens at its own addresses, and what is on its links, such as the metadata service of a cloud. HostIPs are the Machine's node.
func (p *prober) elsewhere(ctx context.Context, host string) (netip.Addr, error) {
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range all {
		a = a.Unmap()
		own := slices.ContainsFunc(interfaces, func(i net.Addr) bool {
			n, ok := i.(*net.IPNet)
			return ok && n.IP.Equal(a.AsSlice())
		})
		if a.IsGlobalUnicast() && (!own || slices.Contains(p.spec.HostIPs, a)) {
			return a, nil
		}
	}
	return netip.Addr{}, gondola.Errorf(gondola.ErrForbidden, "host %s is an address that only the platform's host can reach: name that of a machine, a Service or another server", host)
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

// conn makes a net.Conn of a connection that has no addresses and, at times, no deadlines.
type conn struct{ io.ReadWriteCloser }

func newConn(c io.ReadWriteCloser) net.Conn {
	if n, ok := c.(net.Conn); ok {
		return n
	}
	return conn{c}
}

func (conn) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "machine"} }
func (conn) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "machine"} }
func (conn) SetDeadline(time.Time) error      { return nil }
func (conn) SetReadDeadline(time.Time) error  { return nil }
func (conn) SetWriteDeadline(time.Time) error { return nil }

// limited keeps the first 10 KiB written to it.
type limited struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p[:min(len(p), 10<<10-l.b.Len())])
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
