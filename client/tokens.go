package client

import (
	"context"
	"time"

	"gondola"
)

var (
	_ gondola.Tokens = (*Client)(nil)
	_ gondola.Orgs   = (*Client)(nil)
)

// CreateToken implements gondola.Tokens.
func (c *Client) CreateToken(ctx context.Context, req gondola.NewToken) (made gondola.MadeToken, err error) {
	err = c.do(ctx, "POST", ext("tokens"), nil, req, &made)
	return made, err
}

// ListTokens implements gondola.Tokens.
func (c *Client) ListTokens(ctx context.Context) (list []gondola.Token, err error) {
	err = c.do(ctx, "GET", ext("tokens"), nil, nil, &list)
	return list, err
}

// RevokeToken implements gondola.Tokens.
func (c *Client) RevokeToken(ctx context.Context, id gondola.TokenID) error {
	return c.do(ctx, "DELETE", ext("tokens", string(id)), nil, nil, nil)
}

// CurrentTokens tells what the caller's own token, or several, are good for.
func (c *Client) CurrentTokens(ctx context.Context) ([]gondola.CurrentToken, error) {
	var answer struct {
		Tokens []gondola.CurrentToken `json:"tokens"`
	}
	err := c.do(ctx, "GET", path("tokens", "current"), nil, nil, &answer)
	return answer.Tokens, err
}

// CreateDeployToken makes a token of one App from the caller's, good for expiry ("24h"; if empty, the server's default).
func (c *Client) CreateDeployToken(ctx context.Context, app gondola.AppName, expiry string) (string, error) {
	var answer struct {
		Token string `json:"token"`
	}
	err := c.do(ctx, "POST", path("apps", string(app), "deploy_token"), nil, map[string]string{"expiry": expiry}, &answer)
	return answer.Token, err
}

// ListOrgs implements gondola.Orgs.
func (c *Client) ListOrgs(ctx context.Context) (list []gondola.OrgInfo, err error) {
	err = c.do(ctx, "GET", ext("orgs"), nil, nil, &list)
	return list, err
}

// DeployToken makes a token of one App from the caller's own, that lives for life; if zero, for DefaultTokenLife.
func (c *Client) DeployToken(ctx context.Context, app gondola.AppName, life time.Duration) (string, error) {
	var body struct {
		Expiry string `json:"expiry,omitempty"`
	}
	if life != 0 {
		body.Expiry = life.String()
	}
	var answer struct {
		Token string `json:"token"`
	}
	err := c.do(ctx, "POST", path("apps", string(app), "deploy_token"), nil, body, &answer)
	return answer.Token, err
}

// AuthenticateTokens says what the tokens in a header as Authorization has it are good for. ErrInvalid where none is good.
func (c *Client) AuthenticateTokens(ctx context.Context, header string) (list []gondola.VerifiedToken, err error) {
	err = c.do(ctx, "POST", path("tokens", "authenticate"), nil, map[string]string{"header": header}, &list)
	return list, err
}

// AuthorizeTokens returns the token in a header that opens something. ErrForbidden where none does.
func (c *Client) AuthorizeTokens(ctx context.Context, header string, access gondola.TokenAccess) (gondola.VerifiedToken, error) {
	var answer struct {
		Token gondola.VerifiedToken `json:"verified_token"`
	}
	err := c.do(ctx, "POST", path("tokens", "authorize"), nil, map[string]any{"header": header, "access": access}, &answer)
	return answer.Token, err
}
