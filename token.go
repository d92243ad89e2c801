package gondola

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Caveats narrow a token; zero fields do not. Caveats add up: what one forbids, no other allows.
type Caveats struct {
	Org      string      `json:"org,omitempty"`      // only Apps of this organisation
	Apps     []AppName   `json:"apps,omitempty"`     // only these Apps, and nothing of the platform
	Machines []MachineID `json:"machines,omitempty"` // only these Machines, and nothing else of their Apps
	ReadOnly bool        `json:"readonly,omitempty"` // nothing that changes anything or runs a command
	// FromMachine is the Machine that may use the token: requests from any address but this Machine's are refused.
	FromMachine MachineID `json:"from_machine,omitempty"`
	Expires     time.Time `json:"expires,omitzero"` // worthless afterwards
}

// TokenID names a token without giving it away: "tok_" and 24 hex digits, computed from the token alone.
type TokenID string

// Token is what is on record of a token that the platform made; never the token itself.
type Token struct {
	ID        TokenID   `json:"id"`
	Name      string    `json:"name,omitempty"` // for people
	Parent    TokenID   `json:"parent"`         // the token it was made from
	Caveats   Caveats   `json:"caveats"`        // its own; those of its ancestors count as well
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // the earliest of its own and its ancestors'; zero: never
	RevokedAt time.Time `json:"revoked_at,omitzero"` // zero: it was not
}

// NewToken asks for a token, narrower than the one that asks.
type NewToken struct {
	Name    string  `json:"name,omitempty"`
	Caveats Caveats `json:"caveats"` // without Expires, DefaultTokenLife
}

// MadeToken is the answer: the only time that the token itself is told.
type MadeToken struct {
	Token
	Text string `json:"token"`
}

// CurrentToken is what the API tells somebody of their own token. The JSON is the API's main.tokenInfo.
type CurrentToken struct {
	ID           TokenID   `json:"token_id"`
	OrgSlug      string    `json:"org_slug"` // Org for a token of every organisation
	Organization string    `json:"organization"`
	Apps         []AppName `json:"apps,omitempty"` // if none, all of the organisation's
	User         string    `json:"user,omitempty"`
	Restricted   string    `json:"restricted_to_machine,omitempty"` // ids of Machines, by commas
	Source       MachineID `json:"source_machine_id,omitempty"`     // the Machine that alone may use it
}

// VerifiedToken is a token that is good, and what it is good for. The JSON is the API's root.VerifiedToken: what was narrowed stands as one caveat of the
// type "Gondola".
type VerifiedToken struct {
	Header          string        `json:"header"` // as Authorization has it
	Caveats         []TokenCaveat `json:"caveats"`
	Nonce           TokenNonce    `json:"nonce"`
	PermissionToken []byte        `json:"permission_token"` // the token itself
}

// TokenCaveat is what narrows a token.
type TokenCaveat struct {
	Type string  `json:"type"`
	Body Caveats `json:"body"`
}

// TokenNonce tells tokens apart.
type TokenNonce struct {
	KID   []byte `json:"kid"` // the TokenID
	Proof bool   `json:"proof"`
	Rnd   []byte `json:"rnd"`
}

// TokenAccess is something that a token may open. The JSON is the API's main.TokenAccess; those that are no part of Gondola are ErrUnsupported.
type TokenAccess struct {
	Action         json.RawMessage `json:"action,omitempty"` // letters of rwcdC, "*", or their bits as a number; if nothing, to read
	Org            string          `json:"org_slug,omitempty"`
	App            AppName         `json:"app_name,omitempty"`
	Machine        MachineID       `json:"machine_id,omitempty"`
	Volume         VolumeID        `json:"volume_id,omitempty"`
	SourceMachine  MachineID       `json:"source_machine,omitempty"`
	Command        []string        `json:"command,omitempty"`
	OrgFeature     string          `json:"org_feature,omitempty"`
	AppFeature     string          `json:"app_feature,omitempty"`
	MachineFeature string          `json:"machine_feature,omitempty"`
	Mutation       string          `json:"mutation,omitempty"`
	StorageObject  string          `json:"storage_object,omitempty"`
}

// DefaultTokenLife is how long a token is good where nothing else was asked.
const DefaultTokenLife = 24 * time.Hour

// Tokens makes tokens from the caller's own and takes them back.
type Tokens interface {
	// CreateToken makes a token that may do what the caller may, less what the Caveats forbid. ErrInvalid.
	CreateToken(ctx context.Context, req NewToken) (MadeToken, error)
	// ListTokens returns the tokens on record that were made from the caller's, of whatever generation, oldest first. Those that ended more
	// than two days ago are not on record any more.
	ListTokens(ctx context.Context) ([]Token, error)
	// RevokeToken ends a token and all that were made from it, for ever and at once: streams that they opened are cut. The caller's own can be
	// revoked and those made from it; the root token's holder can revoke every other. ErrNotFound for another's, ErrPrecondition for the root
	// token, which ends with its file. Doing it again is harmless.
	RevokeToken(ctx context.Context, id TokenID) error
}

// Orgs tells which organisations there are.
type Orgs interface {
	// ListOrgs returns the organisations that the caller reaches, by slug. One is there as long as it has an App; Org always.
	ListOrgs(ctx context.Context) ([]OrgInfo, error)
}

// OrgInfo is an organisation and how much it has.
type OrgInfo struct {
	Organization
	Apps int `json:"apps"` // that the caller reaches
}

var (
	tokenIDRE   = regexp.MustCompile(`^tok_[0-9a-f]{24}$`)
	machineIDRE = regexp.MustCompile(`^[0-9a-f]{14}$`)
)

// Validate returns an ErrInvalid that says what is wrong with the id, or nil.
func (id TokenID) Validate() error {
	if !tokenIDRE.MatchString(string(id)) {
		return Errorf(ErrInvalid, "token id %q: want tok_ and 24 hex digits, as gondola token list prints them", clip(string(id)))
	}
	return nil
}

// Validate returns an ErrInvalid that names the field, what it has and what it may have, or nil. now is the present.
func (n NewToken) Validate(now time.Time) error {
	if utf8.RuneCountInString(n.Name) > maxTokenName || strings.ContainsFunc(n.Name, unprintable) {
		return Errorf(ErrInvalid, "name %q: use at most %d printable characters", clip(n.Name), maxTokenName)
	}
	return n.Caveats.Validate(now)
}

const maxTokenName = 64 // characters

// unprintable says whether r is no letter, number, sign or blank.
func unprintable(r rune) bool {
	return r != ' ' && !unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S)
}

// Validate returns an ErrInvalid that names the field, what it has and what it may have, or nil. now is the present.
func (c Caveats) Validate(now time.Time) error {
	if c.Org != "" {
		if err := ValidateOrg("caveats.org", c.Org); err != nil {
			return err
		}
	}
	if c.Apps != nil && len(c.Apps) == 0 || c.Machines != nil && len(c.Machines) == 0 {
		return Errorf(ErrInvalid, "caveats.apps and caveats.machines must not be empty lists: leave out what does not narrow")
	}
	for _, a := range c.Apps {
		if err := a.Validate(); err != nil {
			return Errorf(ErrInvalid, "caveats.apps: %w", err)
		}
	}
	for _, id := range append(slices.Clone(c.Machines), c.FromMachine) {
		if id != "" && !machineIDRE.MatchString(string(id)) || id == "" && slices.Contains(c.Machines, id) {
			return Errorf(ErrInvalid, "caveats.machines, caveats.from_machine: %q: want the id of a machine, 14 hex digits", clip(string(id)))
		}
	}
	if !c.Expires.IsZero() && !c.Expires.After(now) {
		return Errorf(ErrInvalid, "caveats.expires %s: want a time ahead", c.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// ValidateOrg returns an ErrInvalid about the field where the slug of an organisation is not one: it has the form of an App's name.
func ValidateOrg(field, slug string) error {
	if len(slug) > 63 || !appNameRE.MatchString(slug) {
		return Errorf(ErrInvalid, "%s %q: use 1 to 63 lower-case letters, digits and inner dashes", field, clip(slug))
	}
	return nil
}

// clip cuts what a request said to a length that a message may repeat.
func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return s[:80] + "…"
}
