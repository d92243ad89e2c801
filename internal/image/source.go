package image

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sort"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"gondola"
)

// source is a repository to pull from, and how to reach it.
type source struct {
	repo      name.Repository
	transport http.RoundTripper
}

// sources lists where a reference may come from: the mirror of its registry, then the registry.
func (s *Store) sources(r reference) ([]source, error) {
	cfg := s.registries[r.registry()]
	var list []source
	if cfg.Mirror != "" {
		if err := CheckMirror(cfg.Mirror); err != nil {
			return nil, err
		}
		src, err := s.mirror(cfg.Mirror, r.ref.Context().RepositoryStr())
		if err != nil {
			return nil, gondola.Errorf(gondola.ErrInvalid, "mirror %q of registry %s: %w; write it as host, host/path or URL", cfg.Mirror, r.registry(), err)
		}
		list = append(list, src)
	}
	origin, err := s.source(r.ref.Context().Name(), cfg)
	if err != nil {
		return nil, gondola.Errorf(gondola.ErrImage, "image %s: %w", r.asked, err)
	}
	return append(list, origin), nil
}

// CheckMirror refuses a Registry.Mirror without a host that is one by Docker Hub's rules of names, which take a word for a user of Docker Hub.
func CheckMirror(mirror string) error {
	bare, plain := bareMirror(mirror)
	host, path, deep := strings.Cut(bare, "/")
	if host == "" {
		return gondola.Errorf(gondola.ErrInvalid, "mirror %q names no host; write it as host, host/path or URL", mirror)
	}
	if host == "localhost" || strings.ContainsAny(host, ".:") {
		return nil
	}
	instead := host + ":443"
	if plain {
		instead = "http://" + host + ":80"
	}
	if deep {
		instead += "/" + path
	}
	return gondola.Errorf(gondola.ErrInvalid, "mirror %q would be looked for on Docker Hub, under the name %s; write its port, %s", mirror, host, instead)
}

// bareMirror is a mirror as host or host/path, and whether it is to be reached by plain http.
func bareMirror(mirror string) (bare string, plain bool) {
	bare, plain = strings.CutPrefix(mirror, "http://")
	return strings.Trim(strings.TrimPrefix(bare, "https://"), "/"), plain
}

// mirror is the source for a repository at a mirror, which may have settings of its own among the registries.
func (s *Store) mirror(mirror, repository string) (source, error) {
	bare, plain := bareMirror(mirror)
	host, _, _ := strings.Cut(bare, "/")
	cfg := s.registries[host]
	cfg.PlainHTTP = cfg.PlainHTTP || plain
	return s.source(bare+"/"+repository, cfg)
}

func (s *Store) source(repository string, cfg Registry) (source, error) {
	host, _, _ := strings.Cut(repository, "/")
	plain := cfg.PlainHTTP || loopback(host)
	var opts []name.Option
	if plain {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(repository, opts...)
	if err != nil {
		return source{}, err
	}
	src := source{repo: repo, transport: s.strict}
	if cfg.Insecure {
		src.transport = s.lax
	}
	if !plain {
		src.transport = encrypted{src.transport}
	}
	return src, nil
}

// loopback says whether a registry is on this host, so that plain http is no risk.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// encrypted refuses to send anything in the clear: the library would fall back to plain http for private addresses, and whoever can drop
// packets could make it.
type encrypted struct{ next http.RoundTripper }

func (e encrypted) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s is not reached without https; to allow it, set plain_http for this registry", req.URL.Host)
	}
	return e.next.RoundTrip(req)
}

func newTransport(insecure bool, silence time.Duration) http.RoundTripper {
	return impatient{silence: silence, next: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   layersAtOnce,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: insecure}, // only where the user said so for this registry
	}}
}

// authenticators lists what to try at a repository, most specific first: the given credentials that match it, then the host's Docker
// configuration, which is anonymous where it says nothing.
func authenticators(ctx context.Context, repo name.Repository, credentials []gondola.RegistryCredential) []authn.Authenticator {
	var match []gondola.RegistryCredential
	for _, c := range credentials {
		if covers(c.Registry, repo) {
			match = append(match, c)
		}
	}
	sort.SliceStable(match, func(i, j int) bool {
		return len(bareRegistry(match[i].Registry)) > len(bareRegistry(match[j].Registry))
	})
	var list []authn.Authenticator
	for _, c := range match {
		list = append(list, authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password, IdentityToken: c.Token}))
	}
	host, err := authn.Resolve(ctx, authn.DefaultKeychain, repo)
	if err != nil {
		host = authn.Anonymous // an unreadable ~/.docker/config.json must not keep anybody from public images
	}
	return append(list, host)
}

// covers says whether a credential for registry ("host", "host/path", also with scheme and /v1/ as in config.json, "*.example.com") is for repo.
func covers(registry string, repo name.Repository) bool {
	host, path, _ := strings.Cut(bareRegistry(registry), "/")
	want := familiar(repo.RegistryStr())
	if suffix, ok := strings.CutPrefix(host, "*."); ok {
		if first, rest, _ := strings.Cut(want, "."); first == "" || rest != suffix {
			return false
		}
	} else if host != want {
		return false
	}
	return path == "" || path == repo.RepositoryStr() || strings.HasPrefix(repo.RepositoryStr(), path+"/")
}

// bareRegistry strips what config.json keys carry around host and path.
func bareRegistry(registry string) string {
	registry = strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://")
	registry = strings.TrimSuffix(registry, "/")
	for _, v := range []string{"/v1", "/v2"} {
		registry = strings.TrimSuffix(registry, v)
	}
	host, path, deep := strings.Cut(registry, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	if deep {
		return host + "/" + path
	}
	return host
}
