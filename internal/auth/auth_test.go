package auth_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/auth"
)

func may(p auth.Principal, want auth.Access) bool {
	_, err := p.Permit(context.Background(), want, auth.Target{}, nil)
	return err == nil
}

func TestToken_AttenuationOnlyNarrows(t *testing.T) {
	a := auth.New()
	tok, err := auth.Attenuate(a.Root(), gondola.Caveats{Apps: []gondola.AppName{"shop", "blog"}})
	if err != nil {
		t.Fatal(err)
	}
	tok, _ = auth.Attenuate(tok, gondola.Caveats{Apps: []gondola.AppName{"blog", "mail"}, ReadOnly: true, Org: "personal"})
	p, err := a.Verify(tok)
	if err != nil {
		t.Fatal(err)
	}
	blog := func(org string) gondola.App {
		return gondola.App{Name: "blog", Organization: gondola.Organization{Slug: org}}
	}
	if !p.Sees("blog") || p.Sees("shop") || p.Sees("mail") || !p.SeesApp(blog("personal")) || p.SeesApp(blog("acme")) ||
		may(p, auth.Access{Scope: auth.Anyone, Write: true}) || may(p, auth.Access{Scope: auth.Platform}) {
		t.Errorf("principal = %+v: want only to read app blog of personal", p)
	}
	root, err := a.Verify(a.Root())
	if err != nil || !may(root, auth.Access{Scope: auth.Platform, Write: true}) || !root.Sees("any") || root.Server || root.Internal {
		t.Errorf("root = %+v, %v", root, err)
	}
	for name, s := range map[string]string{"root": a.Root(), "attenuated": tok} {
		if strings.HasPrefix(s, "fm") || strings.ContainsAny(s, ", \n") {
			t.Errorf("%s token %q would be taken for a macaroon or cut in two", name, s)
		}
	}
}

func TestToken_ForgeriesAreRefused(t *testing.T) {
	a := auth.New()
	tok, _ := a.Mint(gondola.Caveats{ReadOnly: true})
	parts := strings.Split(tok, ".")
	other, _ := auth.New().Mint(gondola.Caveats{})
	forgeries := map[string]string{
		"caveat cut off":         strings.Join([]string{parts[0], parts[1], parts[3]}, "."),
		"caveat changed":         strings.Join([]string{parts[0], parts[1], "e30", parts[3]}, "."),
		"signature changed":      tok[:len(tok)-4] + "AAAA",
		"another platform's":     other,
		"id changed":             strings.Replace(a.Root(), parts[1], "AAAA", 1),
		"nothing":                "",
		"a macaroon":             "fm2_lJPECAAAAAAAAAAA",
		"signature of no length": parts[0] + "." + parts[1] + ".",
	}
	for name, s := range forgeries {
		if p, err := a.Verify(s); !errors.Is(err, gondola.ErrUnauthorized) {
			t.Errorf("%s: Verify = %+v, %v", name, p, err)
		}
	}
}

func TestToken_Expires(t *testing.T) {
	a := auth.New()
	old, _ := a.Mint(gondola.Caveats{Expires: time.Now().Add(-time.Second)})
	if _, err := a.Verify(old); !errors.Is(err, gondola.ErrUnauthorized) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("Verify of an expired token = %v", err)
	}
	renewed, _ := auth.Attenuate(old, gondola.Caveats{Expires: time.Now().Add(time.Hour)})
	if _, err := a.Verify(renewed); err == nil {
		t.Error("an expired token was given a longer life by attenuation")
	}
	fresh, _ := a.Mint(gondola.Caveats{Expires: time.Now().Add(time.Hour)})
	if _, err := a.Verify(fresh); err != nil {
		t.Errorf("Verify = %v", err)
	}
}

func TestOpen_KeepsAPrivateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	open := func() (*auth.Authority, error) { return auth.Open(t.Context(), auth.Config{Path: path}) }
	a, err := open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := open()
	if err != nil || a.Root() != b.Root() {
		t.Fatalf("a second Open = %v with another token", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v", info.Mode(), err)
	}
	os.Chmod(path, 0o644)
	if _, err := open(); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("a file that others could read stays %v", info.Mode())
	}
	content, _ := os.ReadFile(path)
	if strings.TrimSpace(string(content)) != a.Root() {
		t.Error("the file does not hold the token: the command line could not use it")
	}
	os.WriteFile(path, []byte("rubbish"), 0o600)
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("Open of rubbish = %v", err)
	}
}

func TestAuthenticate_Schemes(t *testing.T) {
	a := auth.New()
	other := auth.New().Root()
	for header, ok := range map[string]bool{
		"Bearer " + a.Root():                           true,
		"bearer " + a.Root():                           true,
		"FlyV1 " + a.Root():                            true,
		"FlyV1 fm2_abc," + a.Root():                    true,
		"FlyV1 " + other + "," + a.Root():              true,
		"Bearer FlyV1 " + a.Root():                     true, // Bearer $FLY_API_TOKEN, as the official CLI prints tokens
		"Bearer " + other + ", " + a.Root():            true,
		"FlyV1 " + strings.Repeat("x,", 32) + a.Root(): false, // more than anybody has
		"  FlyV1   " + a.Root() + " ":                  true,
		"Bearer " + other:                              false,
		"Basic " + a.Root():                            false,
		a.Root():                                       false,
		"":                                             false,
		"Bearer":                                       false,
		"FlyV1 ,,,":                                    false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		_, err := a.Authenticate(r)
		if (err == nil) != ok || err != nil && !errors.Is(err, gondola.ErrUnauthorized) {
			t.Errorf("Authenticate(%q) = %v, want ok %v", header, err, ok)
		}
		if err != nil && (strings.Contains(err.Error(), other) || strings.Contains(err.Error(), a.Root())) {
			t.Errorf("the error repeats a token: %v", err)
		}
	}
}

func TestCA_SurvivesOnDiskAndItsServersAreKnown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pki", "ca.pem")
	first, err := auth.LoadOrCreateCA(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := auth.LoadOrCreateCA(path)
	if err != nil || string(first.CertPEM()) != string(second.CertPEM()) {
		t.Fatalf("a second LoadOrCreateCA made another CA, %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v", info.Mode())
	}
	if strings.Contains(string(first.CertPEM()), "PRIVATE") {
		t.Error("the certificate comes with its key")
	}
	var who auth.Principal
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err = auth.ServersOnly{}.Authenticate(r)
	}))
	s.TLS = first.ListenConfig(auth.RoleWorker, "gru")
	s.StartTLS()
	defer s.Close()
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: second.DialConfig("main", "gru")}}
	resp, callErr := hc.Get(s.URL)
	if callErr != nil {
		t.Fatal(callErr)
	}
	resp.Body.Close()
	if err != nil || !who.Server || who.Name != "server main" {
		t.Errorf("principal = %+v, %v", who, err)
	}
}
