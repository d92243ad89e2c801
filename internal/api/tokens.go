package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"gondola"
	"gondola/internal/auth"
)

// Bodies about tokens.
type (
	deployBody struct {
		Expiry string `json:"expiry"` // a duration such as 24h
	}
	deployAnswer struct {
		Token string `json:"token"`
	}
	currentAnswer struct {
		Tokens []gondola.CurrentToken `json:"tokens"`
	}
	headerBody struct {
		Header string `json:"header"` // as Authorization has it
	}
	authorizeBody struct {
		Header string              `json:"header"`
		Access gondola.TokenAccess `json:"access"`
	}
	authorizeAnswer struct {
		Access gondola.TokenAccess   `json:"access"`
		Token  gondola.VerifiedToken `json:"verified_token"`
	}
)

// ofTokens serves h where there are tokens; a worker takes none.
func (a *API) ofTokens(h func(c *call) error) func(c *call) error {
	if a.tokens != nil {
		return h
	}
	return onWorker
}

func (a *API) createToken(c *call) error {
	var req gondola.NewToken
	if err := c.decode(&req); err != nil {
		return err
	}
	made, err := a.tokens.Make(c.ctx(), c.who, req)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, made)
}

func (a *API) listTokens(c *call) error {
	list, err := a.tokens.List(c.ctx(), c.who)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, append([]gondola.Token{}, list...))
}

func (a *API) revokeToken(c *call) error {
	if err := a.tokens.Revoke(c.ctx(), c.who, gondola.TokenID(c.PathValue("token"))); err != nil {
		return err
	}
	return c.ok()
}

// deployToken makes a token of one App from the caller's.
func (a *API) deployToken(c *call) error {
	var body deployBody
	if err := c.decode(&body); err != nil {
		return err
	}
	app, err := a.apps.App(c.ctx(), c.app())
	if err != nil {
		return err
	}
	// Its organisation too: another one may have an App of this name one day.
	req := gondola.NewToken{Name: "deploy token of " + string(app.Name), Caveats: gondola.Caveats{Apps: []gondola.AppName{app.Name}, Org: app.Organization.Slug}}
	if len(req.Name) > 64 {
		req.Name = "deploy token"
	}
	if body.Expiry != "" {
		life, err := time.ParseDuration(body.Expiry)
		if err != nil || life <= 0 {
			return gondola.Errorf(gondola.ErrInvalid, "expiry %.80q: use a duration above zero, such as 24h", body.Expiry)
		}
		req.Caveats.Expires = time.Now().Add(life).UTC().Truncate(time.Second).Add(time.Second)
	}
	made, err := a.tokens.Make(c.ctx(), c.who, req)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, deployAnswer{made.Text})
}

func (a *API) currentTokens(c *call) error {
	out := []gondola.CurrentToken{}
	for _, p := range c.came.All() {
		t := p.Info()
		info := gondola.CurrentToken{ID: t.ID, OrgSlug: p.Org(), Organization: p.Org(), Apps: t.Caveats.Apps, Source: t.Caveats.FromMachine}
		for i, id := range t.Caveats.Machines {
			if i > 0 {
				info.Restricted += ","
			}
			info.Restricted += string(id)
		}
		out = append(out, info)
	}
	return c.send(http.StatusOK, currentAnswer{out})
}

func verified(p auth.Principal) gondola.VerifiedToken {
	t := p.Info()
	return gondola.VerifiedToken{Header: "Bearer " + p.Token(), PermissionToken: []byte(p.Token()), Caveats: []gondola.TokenCaveat{{Type: "Gondola", Body: t.Caveats}},
		Nonce: gondola.TokenNonce{KID: []byte(t.ID), Rnd: []byte{}}}
}

func (a *API) authenticateTokens(c *call) error {
	var body headerBody
	if err := c.decode(&body); err != nil {
		return err
	}
	who, err := a.headerOf(c, body.Header, "")
	if err != nil {
		return err
	}
	out := []gondola.VerifiedToken{}
	for _, p := range who.All() {
		out = append(out, verified(p))
	}
	return c.send(http.StatusOK, out)
}

// headerOf reads the header in a body; one that is not valid is a bad request, not a caller who is nobody.
func (a *API) headerOf(c *call, header string, source gondola.MachineID) (auth.Principal, error) {
	if strings.TrimSpace(header) == "" {
		return auth.Principal{}, malformedf("header is missing: send {\"header\":\"Bearer <token>\"}")
	}
	who, err := a.tokens.Header(c.ctx(), header, auth.From{Address: c.RemoteAddr, Machine: source})
	if err != nil {
		return who, malformedf("header: %s", err)
	}
	return who, nil
}

// writes says whether an action is more than reading: letters of rwcdC, or the number that they make as bits.
func writes(action json.RawMessage, command []string) (bool, error) {
	var n int
	var s string
	switch {
	case len(action) == 0 || string(action) == "null":
	case json.Unmarshal(action, &n) == nil:
		if n < 0 || n > 31 {
			return false, malformedf("access.action %d: use 0 to 31", n)
		}
	case json.Unmarshal(action, &s) == nil:
		if s == "*" || s == "all" {
			return true, nil
		}
		for _, r := range s {
			bit := strings.IndexRune("rwcdC", r)
			if bit < 0 {
				return false, malformedf("access.action %.80q: use letters of rwcdC, or *", s)
			}
			n |= 1 << bit
		}
	default:
		return false, malformedf("access.action: use a number from 0 to 31 or letters of rwcdC")
	}
	return n&^1 != 0 || len(command) > 0, nil
}

// authorizeTokens says whether a header would open something, by the rule that opens it.
func (a *API) authorizeTokens(c *call) error {
	var body authorizeBody
	if err := c.decode(&body); err != nil {
		return err
	}
	want := body.Access
	for field, v := range map[string]string{"org_feature": want.OrgFeature, "app_feature": want.AppFeature, "machine_feature": want.MachineFeature, "mutation": want.Mutation, "storage_object": want.StorageObject} {
		if v != "" {
			return gondola.Errorf(gondola.ErrUnsupported, "access.%s: gondola has no such thing: ask for org_slug, app_name, machine_id or volume_id", field)
		}
	}
	write, err := writes(want.Action, want.Command)
	if err != nil {
		return err
	}
	if want.App == "" && (want.Machine != "" || want.Volume != "") {
		return malformedf("access.app_name is missing: name the app of the machine or volume")
	}
	if want.App == "" && want.Org == "" {
		return malformedf("access.org_slug and access.app_name are missing: name one")
	}
	who, err := a.headerOf(c, body.Header, want.SourceMachine)
	if err != nil {
		return err
	}
	scope := auth.OneApp
	if want.App == "" {
		scope = auth.WholeApps
	}
	who, err = who.Permit(c.ctx(), auth.Access{Scope: scope, Write: write}, auth.Target{App: want.App, Machine: want.Machine, Org: want.Org}, a.known())
	if err != nil {
		return err
	}
	if want.App != "" && want.Org != "" {
		if err := a.inOrg(c, want.App, want.Org); err != nil {
			return err
		}
	}
	return c.send(http.StatusOK, authorizeAnswer{want, verified(who)})
}

// listOrgs tells the organisations of the Apps that the caller sees, and the one that every platform has.
func (a *API) listOrgs(c *call) error {
	apps, err := a.apps.ListApps(c.ctx(), "")
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, c.who.Orgs(apps))
}

// inOrg returns ErrForbidden where an App is not of an organisation.
func (a *API) inOrg(c *call, name gondola.AppName, org string) error {
	app, err := a.apps.App(c.ctx(), name)
	if err == nil && app.Organization.Slug != org {
		err = gondola.Errorf(gondola.ErrForbidden, "app %q is not of organisation %q", name, org)
	}
	return err
}
