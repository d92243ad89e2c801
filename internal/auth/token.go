// Package auth says who calls and what they may do.
//
// A token is opaque to its holder and is not a Fly.io macaroon. It is an id, any number of caveats that narrow it, and a signature that is a
// chain of HMACs over these, so that whoever holds a token can attenuate it further without asking, and nobody can widen one. The root token,
// kept in a file that only its owner reads, is both the widest token and the key that all others are checked with. Between server and workers
// identity is a client certificate of the platform's own CA.
package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gondola"
)

// Caveats narrow a token; zero fields do not. Caveats add up: what one forbids, no other allows.
type Caveats struct {
	Org      string            `json:"org,omitempty"`      // only Apps of this organisation
	Apps     []gondola.AppName `json:"apps,omitempty"`     // only these Apps, and nothing of the platform
	ReadOnly bool              `json:"readonly,omitempty"` // nothing that changes anything or runs a command
	Expires  time.Time         `json:"expires,omitzero"`   // worthless afterwards
}

const prefix = "gdl"

var enc = base64.RawURLEncoding

// token is a parsed token: prefix.id.caveat.….caveat.signature
type token struct {
	id      string
	caveats []string // encoded, as they are signed
	sig     []byte
}

func parse(s string) (token, error) {
	parts := strings.Split(s, ".")
	if len(parts) < 3 || parts[0] != prefix || parts[1] == "" {
		return token{}, gondola.Errorf(gondola.ErrUnauthorized, "this is not a gondola token")
	}
	sig, err := enc.DecodeString(parts[len(parts)-1])
	if err != nil || len(sig) != sha256.Size {
		return token{}, gondola.Errorf(gondola.ErrUnauthorized, "the token is damaged: its end is missing")
	}
	return token{id: parts[1], caveats: parts[2 : len(parts)-1], sig: sig}, nil
}

func (t token) String() string {
	parts := append([]string{prefix, t.id}, t.caveats...)
	return strings.Join(append(parts, enc.EncodeToString(t.sig)), ".")
}

func (t token) attenuate(c Caveats) (token, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return token{}, err
	}
	caveat := enc.EncodeToString(b)
	return token{id: t.id, caveats: append(slices.Clone(t.caveats), caveat), sig: sign(t.sig, caveat)}, nil
}

func sign(key []byte, caveat string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(caveat))
	return m.Sum(nil)
}

// Attenuate returns a token that may do what tok may do, less what c forbids. It needs no key and asks nobody.
func Attenuate(tok string, c Caveats) (string, error) {
	t, err := parse(strings.TrimSpace(tok))
	if err != nil {
		return "", err
	}
	t, err = t.attenuate(c)
	return t.String(), err
}

// Authority mints tokens and verifies them. Methods may be called at the same time.
type Authority struct {
	root token
	now  func() time.Time
}

// New returns an Authority with a fresh root token that is on no disk.
func New() *Authority {
	var b [12 + sha256.Size]byte
	rand.Read(b[:])
	return &Authority{root: token{id: enc.EncodeToString(b[:12]), sig: b[12:]}, now: time.Now}
}

// LoadOrCreate returns the Authority whose root token is in the file at path, mode 0600. Where there is no such file it is made, with a fresh
// token. Two processes that do this at once get the same.
func LoadOrCreate(path string) (*Authority, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path, New().Root()+"\n"); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("write the token: %w", err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the token: %w", err)
	}
	root, err := parse(strings.TrimSpace(string(b)))
	if err != nil || len(root.caveats) > 0 {
		return nil, fmt.Errorf("%s does not hold a root token of gondola: remove it, and a new one is made", path)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("make the token private: %w", err)
	}
	return &Authority{root: root, now: time.Now}, nil
}

// create writes a private file that appears whole or not at all, and returns fs.ErrExist where there is one.
func create(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// Root returns the token that may do everything.
func (a *Authority) Root() string { return a.root.String() }

// Mint returns a token narrowed by c.
func (a *Authority) Mint(c Caveats) (string, error) {
	t, err := a.root.attenuate(c)
	return t.String(), err
}

// Verify returns who holds tok, or ErrUnauthorized. The error does not tell how near a forgery was.
func (a *Authority) Verify(tok string) (Principal, error) {
	t, err := parse(tok)
	if err != nil {
		return Principal{}, err
	}
	sig := a.root.sig
	for _, c := range t.caveats {
		sig = sign(sig, c)
	}
	sameID := hmac.Equal([]byte(t.id), []byte(a.root.id))
	if sameSig := hmac.Equal(sig, t.sig); !sameID || !sameSig {
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token is not valid here: use the one in the data directory of this platform")
	}
	p := Principal{Name: "token " + t.id}
	for _, c := range t.caveats {
		var caveats Caveats
		b, err := enc.DecodeString(c)
		if err == nil {
			err = decodeStrict(b, &caveats)
		}
		if err != nil { // signed, but by a newer gondola: what is not understood must not be ignored
			return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token has a caveat that this version of gondola does not know")
		}
		if !caveats.Expires.IsZero() && !a.now().Before(caveats.Expires) {
			return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token expired at %s: ask for a new one", caveats.Expires.UTC().Format(time.RFC3339))
		}
		p.narrow(caveats)
	}
	return p, nil
}

func decodeStrict(b []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
