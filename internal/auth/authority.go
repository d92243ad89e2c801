// Package auth says who calls and what they may do: all of access is decided here.
//
// A token is opaque to its holder and is not a Fly.io macaroon. It is an id, any number of caveats that narrow it, and a signature that is a
// chain of HMACs over these, so that whoever holds a token can attenuate it further without asking, and nobody can widen one. The root token,
// kept in a file that only its owner reads, is both the widest token and the key that all others are checked with. Between server and workers
// identity is a client certificate of the platform's own CA. What a Machine asks by itself, its pilot brings to a listener that is for pilots alone.
// docs/rfd/0011-tokens.md has the reasons.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gondola"
)

// Records keeps what was made and what was revoked. The server's file does.
type Records interface {
	// AddToken records a token that was made; chain names all that it was made from, the root first, itself last.
	AddToken(ctx context.Context, t gondola.Token, chain []gondola.TokenID) error
	// TokensOf returns the tokens whose chain has an id, oldest first.
	TokensOf(ctx context.Context, id gondola.TokenID) ([]gondola.Token, error)
	// RevokeToken records that a token ended, be it on record or not.
	RevokeToken(ctx context.Context, id gondola.TokenID, at time.Time) error
	// RevokedTokens returns the tokens that ended so.
	RevokedTokens(ctx context.Context) ([]gondola.TokenID, error)
}

// Config is what an Authority works with; zero fields work.
type Config struct {
	// Path of the file with the root token, mode 0600. Where there is no such file it is made, with a fresh token; two processes that do this
	// at once get the same. If empty, a fresh root token that is on no disk.
	Path string
	// Records of tokens. If nil, none are kept, and revocations end with the Authority.
	Records Records
	// Addresses tells which addresses a Machine has, for tokens that one Machine alone may use. If nil, those are refused.
	Addresses func(ctx context.Context, id gondola.MachineID) ([]netip.Addr, error)
}

// Authority mints tokens, verifies and revokes them. Methods may be called at the same time.
type Authority struct {
	root, inner token
	records     Records
	addresses   func(ctx context.Context, id gondola.MachineID) ([]netip.Addr, error)
	now         func() time.Time

	mu       sync.Mutex
	revoked  map[gondola.TokenID]bool
	sessions map[*session]struct{}
}

// New returns an Authority with a fresh root token that is on no disk, and no records.
func New() *Authority { return newAuthority(fresh(), Config{}) }

func newAuthority(root token, cfg Config) *Authority {
	return &Authority{root: root, inner: fresh(), records: cfg.Records, addresses: cfg.Addresses, now: time.Now,
		revoked: map[gondola.TokenID]bool{}, sessions: map[*session]struct{}{}}
}

func fresh() token {
	var b [12 + sha256.Size]byte
	rand.Read(b[:])
	return token{id: enc.EncodeToString(b[:12]), sig: b[12:]}
}

// Open returns the Authority of a platform, with what was revoked before.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	root := fresh()
	if cfg.Path != "" {
		var err error
		if root, err = loadRoot(cfg.Path); err != nil {
			return nil, err
		}
	}
	a := newAuthority(root, cfg)
	if cfg.Records == nil {
		return a, nil
	}
	ids, err := cfg.Records.RevokedTokens(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		a.revoked[id] = true
	}
	return a, nil
}

func loadRoot(path string) (token, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path, fresh().String()+"\n"); err != nil && !errors.Is(err, fs.ErrExist) {
			return token{}, fmt.Errorf("write the token: %w", err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return token{}, fmt.Errorf("read the token: %w", err)
	}
	root, err := parse(strings.TrimSpace(string(b)))
	if err != nil || len(root.caveats) > 0 {
		return token{}, fmt.Errorf("%s does not hold a root token of gondola: remove it, and a new one is made", path)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return token{}, fmt.Errorf("make the token private: %w", err)
	}
	return root, nil
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

// Internal returns a token for the platform's own parts. It may do what the root token may, is not limited in how often, and ends with the
// process: it is on no disk, and no other token can be made into one.
func (a *Authority) Internal() string { return a.inner.String() }

// Mint returns a token narrowed by c, of which nothing is recorded.
func (a *Authority) Mint(c gondola.Caveats) (string, error) {
	t, err := a.root.attenuate(c)
	return t.String(), err
}

// Verify returns who holds tok, or ErrUnauthorized. The error does not tell how near a forgery was.
func (a *Authority) Verify(tok string) (Principal, error) {
	t, err := parse(tok)
	if err != nil {
		return Principal{}, err
	}
	origin, internal := a.root, false
	if hmac.Equal([]byte(t.id), []byte(a.inner.id)) {
		origin, internal = a.inner, true
	}
	sig := origin.sig
	chain := []gondola.TokenID{idOf(sig)}
	for _, c := range t.caveats {
		sig = sign(sig, c)
		chain = append(chain, idOf(sig))
	}
	sameID := hmac.Equal([]byte(t.id), []byte(origin.id))
	if sameSig := hmac.Equal(sig, t.sig); !sameID || !sameSig {
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token is not valid here: use the one in the data directory of this platform")
	}
	if a.endedAny(chain) {
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token was revoked: ask for a new one")
	}
	p := Principal{Name: "token " + string(chain[len(chain)-1]), Internal: internal, chain: chain, token: t, authority: a}
	for _, c := range t.caveats {
		caveats, ok := decodeCaveat(c)
		if !ok { // signed, but by a newer gondola
			return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token has a caveat that this version of gondola does not know")
		}
		if !caveats.Expires.IsZero() && !a.now().Before(caveats.Expires) {
			return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token expired at %s: ask for a new one", caveats.Expires.UTC().Format(time.RFC3339))
		}
		p.narrow(caveats)
	}
	if p.opensNothing() {
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the token opens nothing: its caveats exclude each other")
	}
	return p, nil
}

func (a *Authority) endedAny(chain []gondola.TokenID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.endedLocked(chain)
}

func (a *Authority) endedLocked(chain []gondola.TokenID) bool {
	return len(a.revoked) > 0 && slices.ContainsFunc(chain, func(id gondola.TokenID) bool { return a.revoked[id] })
}

// Make makes a token that may do what who may, less what req forbids, and records it. Parts and servers of the platform get one of the root
// token's. ErrInvalid.
func (a *Authority) Make(ctx context.Context, who Principal, req gondola.NewToken) (gondola.MadeToken, error) {
	now := a.now()
	if err := req.Validate(now); err != nil {
		return gondola.MadeToken{}, err
	}
	parent, chain := who.token, who.chain
	if who.authority == nil || who.Internal {
		parent, chain = a.root, []gondola.TokenID{idOf(a.root.sig)}
	}
	if req.Caveats.Expires.IsZero() {
		req.Caveats.Expires = now.Add(gondola.DefaultTokenLife).UTC().Truncate(time.Second)
	}
	t, err := parent.attenuate(req.Caveats)
	if err != nil {
		return gondola.MadeToken{}, err
	}
	if len(t.String()) > maxToken {
		return gondola.MadeToken{}, gondola.Errorf(gondola.ErrInvalid, "the token would have %d characters, at most %d are allowed: make it from one that was narrowed less", len(t.String()), maxToken)
	}
	made := gondola.MadeToken{Text: t.String(), Token: gondola.Token{ID: idOf(t.sig), Name: req.Name, Parent: chain[len(chain)-1], Caveats: req.Caveats,
		CreatedAt: now.UTC().Truncate(time.Millisecond), ExpiresAt: req.Caveats.Expires}}
	if !who.expires.IsZero() && who.expires.Before(made.ExpiresAt) {
		made.ExpiresAt = who.expires
	}
	if a.records != nil {
		err = a.records.AddToken(ctx, made.Token, append(slices.Clone(chain), made.ID))
	}
	return made, err
}

// List returns the tokens on record that were made from who's.
func (a *Authority) List(ctx context.Context, who Principal) ([]gondola.Token, error) {
	if a.records == nil {
		return nil, nil
	}
	return a.records.TokensOf(ctx, a.above(who))
}

// above is the token whose descendants are who's to see and to revoke.
func (a *Authority) above(who Principal) gondola.TokenID {
	if who.authority == nil || who.Internal {
		return idOf(a.root.sig)
	}
	return who.ID()
}

// Revoke ends a token and all that were made from it, as gondola.Tokens has it. It holds when it returns, and after a restart.
func (a *Authority) Revoke(ctx context.Context, who Principal, id gondola.TokenID) error {
	if err := id.Validate(); err != nil {
		return err
	}
	root := idOf(a.root.sig)
	if id == root || id == idOf(a.inner.sig) {
		return gondola.Errorf(gondola.ErrPrecondition, "the root token is not revoked: remove the file token in the data directory and restart gondola, which ends every token")
	}
	if own := a.above(who); own != root && own != id {
		below, err := a.List(ctx, who)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(below, func(t gondola.Token) bool { return t.ID == id }) {
			return gondola.Errorf(gondola.ErrNotFound, "token not found: none with id %q was made from yours", id)
		}
	}
	if a.records != nil {
		if err := a.records.RevokeToken(ctx, id, a.now()); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[id] = true
	for s := range a.sessions {
		if slices.Contains(s.chain, id) {
			s.cancel()
		}
	}
	return nil
}
