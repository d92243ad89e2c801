package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"gondola"
)

const prefix = "gdl"

// maxToken bounds what is looked at: a chain of some hundred caveats.
const maxToken = 16 << 10

var enc = base64.RawURLEncoding

// token is a parsed token: prefix.id.caveat.….caveat.signature
type token struct {
	id      string
	caveats []string // encoded, as they are signed
	sig     []byte
}

// signed is one caveat as it stands in a token. The nonce makes two tokens of the same caveats two, so that one can be revoked.
type signed struct {
	gondola.Caveats
	Nonce string `json:"nonce,omitempty"`
}

func parse(s string) (token, error) {
	if len(s) > maxToken {
		return token{}, gondola.Errorf(gondola.ErrUnauthorized, "the token has %d characters: at most %d are looked at", len(s), maxToken)
	}
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

func (t token) attenuate(c gondola.Caveats) (token, error) {
	if c.Apps != nil && len(c.Apps) == 0 || c.Machines != nil && len(c.Machines) == 0 {
		return token{}, gondola.Errorf(gondola.ErrInvalid, "a token of no apps or no machines opens nothing: leave the list out, or name some")
	}
	b, err := json.Marshal(signed{c, rand.Text()[:12]})
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

// idOf names the token with a signature. Who knows the name does not know the signature. Whoever verifies a token computes the signatures of
// all that it was made from on the way, so revoking needs nothing written in tokens and works for those of an older gondola too.
func idOf(sig []byte) gondola.TokenID {
	sum := sha256.Sum256(append([]byte("gondola token id\n"), sig...))
	return gondola.TokenID("tok_" + hex.EncodeToString(sum[:12]))
}

// decodeCaveat reads one caveat strictly: what is not understood must not be ignored.
func decodeCaveat(s string) (gondola.Caveats, bool) {
	b, err := enc.DecodeString(s)
	if err != nil {
		return gondola.Caveats{}, false
	}
	var in signed
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	ok := d.Decode(&in) == nil && !d.More()
	return in.Caveats, ok
}

// Attenuate returns a token that may do what tok may do, less what c forbids. It needs no key and asks nobody.
func Attenuate(tok string, c gondola.Caveats) (string, error) {
	t, err := parse(strings.TrimSpace(tok))
	if err != nil {
		return "", err
	}
	t, err = t.attenuate(c)
	return t.String(), err
}

// ID returns the name of a token, be it valid or not. ErrUnauthorized for what is no token.
func ID(tok string) (gondola.TokenID, error) {
	t, err := parse(strings.TrimSpace(tok))
	if err != nil {
		return "", err
	}
	return idOf(t.sig), nil
}
