// Package client speaks the Machines API over HTTP, Fly.io's as well as Gondola's, and implements the contracts of the root package with it.
//
// Errors have the kinds of the root package: what the server said, ErrUnavailable where no server answers and ErrDeadline where ctx ended
// first. What Fly.io's API lacks is ErrUnsupported against a server without it.
//
// What a server refused because of too many requests (429) is asked again when it says, for a minute or as long as ctx lasts: it did nothing of it, so
// that is safe for every call. Else nothing is sent twice, unless Config.Retries asks for that: then what reads, and the changes of which the
// contracts say that doing them again is harmless, are sent again while the server does not answer or asks to come later. Create, Update, Start,
// Stop, Exec and the like are never. A watch that ends is the caller's to begin again.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gondola"
)

// Config says which server, and who asks.
type Config struct {
	// URL is the server's: "http://127.0.0.1:4280", "https://api.machines.dev", or "unix:///path/of/socket".
	URL string
	// Token is sent as "Bearer", Fly.io's macaroons as "FlyV1". If empty, none: the TLS certificate says who asks.
	Token string
	// HTTP is used as it is; if nil, one is made with TLS.
	HTTP *http.Client
	// TLS is for https; if nil, the system's certificates are trusted.
	TLS *tls.Config
	// Org is whose Machines a List of all Apps has. If empty, every organisation's, which only Gondola can tell.
	Org string
	// Retries is how often a call that may safely be done again is sent again after ErrUnavailable, at growing distances and within its context.
	// If zero, never.
	Retries int
	// UserAgent is sent with every request. If empty, "gondola".
	UserAgent string
}

// Client is a server's API. Methods may be called at the same time.
type Client struct {
	base   string // scheme://host
	header http.Header
	http   *http.Client
	org    string

	retries int
}

var _ gondola.Server = (*Client)(nil)

// New returns a Client. It does not connect; the first call does.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme == "" {
		return nil, gondola.Errorf(gondola.ErrInvalid, "server URL %q: use one such as http://127.0.0.1:4280", cfg.URL)
	}
	c := &Client{header: http.Header{}, http: cfg.HTTP, org: cfg.Org, retries: cfg.Retries}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		HTTP2:       &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second}, // a path that is lost is noticed
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext}
	switch u.Scheme {
	case "unix":
		path := u.Path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		transport.Proxy = nil
		c.base = "http://gondola"
	case "http", "https":
		if u.Host == "" {
			return nil, gondola.Errorf(gondola.ErrInvalid, "server URL %q has no host", cfg.URL)
		}
		c.base = u.Scheme + "://" + u.Host
	default:
		return nil, gondola.Errorf(gondola.ErrInvalid, "server URL %q: use http, https or unix", cfg.URL)
	}
	if c.http == nil {
		c.http = &http.Client{Transport: transport}
	}
	if tok := strings.TrimSpace(cfg.Token); tok != "" {
		if !strings.Contains(tok, " ") { // else it says its scheme itself, as "fly tokens create" prints them
			tok = scheme(tok) + " " + tok
		}
		c.header.Set("Authorization", tok)
	}
	agent := cfg.UserAgent
	if agent == "" {
		agent = "gondola"
	}
	c.header.Set("User-Agent", agent)
	if c.org == "" {
		c.org = "-"
	}
	return c, nil
}

// scheme is FlyV1 for Fly.io's macaroons, Bearer for all else.
func scheme(token string) string {
	for _, p := range []string{"fm1r_", "fm1a_", "fm2_"} {
		if strings.Contains(token, p) {
			return "FlyV1"
		}
	}
	return "Bearer"
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Offered returns which of the contracts beyond Fly.io's API the server has; ErrUnsupported if none.
func (c *Client) Offered(ctx context.Context) (gondola.Offered, error) {
	var o gondola.Offered
	err := c.do(ctx, "GET", ext(), nil, nil, &o)
	return o, err
}

// path joins escaped elements below /v1.
func path(elements ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, e := range elements {
		escaped := url.PathEscape(e)
		if e == "." || e == ".." { // as they are, they would lead elsewhere
			escaped = strings.ReplaceAll(e, ".", "%2E")
		}
		b.WriteString("/" + escaped)
	}
	return b.String()
}

// ext is a path of what Fly.io's API lacks.
func ext(elements ...string) string { return path(append([]string{"gondola"}, elements...)...) }

func machine(ref gondola.Ref, more ...string) string {
	return path(append([]string{"apps", string(ref.App), "machines", string(ref.ID)}, more...)...)
}

func extMachine(ref gondola.Ref, more ...string) string {
	return ext(append([]string{"apps", string(ref.App), "machines", string(ref.ID)}, more...)...)
}

func (c *Client) url(path string, query url.Values) string {
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// do sends in as JSON, if it is not nil, and reads the answer into out, if that is not nil. What reads is sent again as Config.Retries says.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	if method == "GET" {
		return c.repeat(ctx, method, path, query, in, out)
	}
	_, err := c.once(ctx, method, path, query, in, out)
	return err
}

// once is do without a second try; it also returns the header of the answer.
func (c *Client) once(ctx context.Context, method, path string, query url.Values, in, out any) (http.Header, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, gondola.Errorf(gondola.ErrInvalid, "%s %s: the request cannot be printed as JSON: %w", method, path, err)
		}
	}
	var resp *http.Response
	err := c.patiently(ctx, func() (err error) {
		var r io.Reader
		if body != nil {
			r = bytes.NewReader(body)
		}
		resp, err = c.send(ctx, method, path, query, r, "application/json")
		return err
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	defer io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return resp.Header, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		if ctx.Err() != nil || isNetwork(err) {
			return nil, c.broken(ctx, method, path, err)
		}
		return nil, fmt.Errorf("%s %s: the answer of %s is not what this call returns: %w", method, path, c.base, err)
	}
	return resp.Header, nil
}

func isNetwork(err error) bool {
	var ne net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &ne)
}

// send returns the answer of a call that went well; its body is to be closed.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body io.Reader, contentType string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url(path, query), body)
	if err != nil {
		return nil, gondola.Errorf(gondola.ErrInvalid, "%s %s: %w", method, path, err)
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if nonce := gondola.LeaseNonce(ctx); nonce != "" {
		req.Header.Set("fly-machine-lease-nonce", nonce)
	}
	if caller := gondola.Caller(ctx); caller != "" {
		req.Header.Set("gondola-caller", caller)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, method, path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
		return nil, comeLater(errorOf(resp.StatusCode, path, b), resp)
	}
	return resp, nil
}

// broken is the error of a call that got no answer. A change that was asked for may have happened.
func (c *Client) broken(ctx context.Context, method, path string, err error) error {
	if ctx.Err() != nil {
		return gondola.Errorf(gondola.ErrDeadline, "%s %s: %w before %s answered", method, path, ctx.Err(), c.base)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return gondola.Errorf(gondola.ErrUnavailable, "%s %s: %s does not answer: %w", method, path, c.base, err)
}
