package client

import (
	"context"
	"net/url"
	"strconv"

	"gondola"
)

func secrets(app gondola.AppName, more ...string) string {
	return path(append([]string{"apps", string(app), "secrets"}, more...)...)
}

func secretsQuery(q gondola.SecretsQuery) url.Values {
	v := url.Values{}
	if q.Show {
		v.Set("show_secrets", "true")
	}
	if q.MinVersion > 0 {
		v.Set("min_version", strconv.FormatUint(q.MinVersion, 10))
	}
	return v
}

// ListSecrets implements gondola.Secrets.
func (c *Client) ListSecrets(ctx context.Context, app gondola.AppName, q gondola.SecretsQuery) ([]gondola.AppSecret, error) {
	var list struct {
		Secrets []gondola.AppSecret `json:"secrets"`
	}
	err := c.do(ctx, "GET", secrets(app), secretsQuery(q), nil, &list)
	return list.Secrets, err
}

// Secret implements gondola.Secrets.
func (c *Client) Secret(ctx context.Context, app gondola.AppName, name string, q gondola.SecretsQuery) (s gondola.AppSecret, err error) {
	err = c.do(ctx, "GET", secrets(app, name), secretsQuery(q), nil, &s)
	return s, err
}

// SetSecret implements gondola.Secrets.
func (c *Client) SetSecret(ctx context.Context, app gondola.AppName, name, value string) (u gondola.SecretsUpdate, err error) {
	var out struct {
		gondola.AppSecret
		Version uint64 `json:"version"`
	}
	if err := c.do(ctx, "POST", secrets(app, name), nil, map[string]string{"value": value}, &out); err != nil {
		return u, err
	}
	return gondola.SecretsUpdate{Version: out.Version, Secrets: []gondola.AppSecret{out.AppSecret}}, nil
}

// DeleteSecret implements gondola.Secrets.
func (c *Client) DeleteSecret(ctx context.Context, app gondola.AppName, name string) (u gondola.SecretsUpdate, err error) {
	err = c.do(ctx, "DELETE", secrets(app, name), nil, nil, &u)
	return u, err
}

// UpdateSecrets implements gondola.Secrets.
func (c *Client) UpdateSecrets(ctx context.Context, app gondola.AppName, values map[string]*string) (u gondola.SecretsUpdate, err error) {
	err = c.do(ctx, "POST", secrets(app), nil, map[string]any{"values": values}, &u)
	return u, err
}

// RenewSecretsKey implements gondola.Secrets.
func (c *Client) RenewSecretsKey(ctx context.Context) error {
	return c.do(ctx, "POST", ext("secrets", "key"), nil, nil, nil)
}

// PutSecrets implements gondola.Files.
func (c *Client) PutSecrets(ctx context.Context, ref gondola.Ref, set gondola.SecretSet) error {
	return c.do(ctx, "PUT", extMachine(ref, "secrets"), nil, set, nil)
}
