package api

import (
	"net/http"
	"strconv"

	"gondola"
)

// Bodies about secrets; the version has both names that the public API prints.
type (
	secretList struct {
		Secrets []gondola.AppSecret `json:"secrets"`
	}
	secretsBody struct {
		Values map[string]*string `json:"values"` // null removes
	}
	secretsAnswer struct {
		Secrets []gondola.AppSecret `json:"secrets"`
		Version uint64              `json:"version"`
		Old     uint64              `json:"Version"`
	}
	// secretAnswer is flat, as fly-go decodes it.
	secretAnswer struct {
		gondola.AppSecret
		Version uint64 `json:"version"`
		Old     uint64 `json:"Version"`
	}
	versionAnswer struct {
		Version uint64 `json:"version"`
		Old     uint64 `json:"Version"`
	}
)

// secretsQuery reads how secrets are asked for. Who wants to see their values has to be one who may change them.
func (a *API) secretsQuery(c *call) (q gondola.SecretsQuery, err error) {
	if q.Show, err = c.flag("show_secrets"); err != nil {
		return q, err
	}
	if q.Show {
		if err := a.permit(c, changes); err != nil {
			return q, err
		}
	}
	for _, name := range []string{"min_version", "version"} { // the second is fly-go's
		v := c.query(name)
		if v == "" {
			continue
		}
		if q.MinVersion, err = strconv.ParseUint(v, 10, 64); err != nil {
			return q, malformedf("query parameter %s=%q: use a number, 0 or more", name, v)
		}
	}
	return q, nil
}

func (a *API) listSecrets(c *call) error {
	q, err := a.secretsQuery(c)
	if err != nil {
		return err
	}
	list, err := a.secrets.ListSecrets(c.ctx(), c.app(), q)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, secretList{append([]gondola.AppSecret{}, list...)})
}

func (a *API) getSecret(c *call) error {
	q, err := a.secretsQuery(c)
	if err != nil {
		return err
	}
	s, err := a.secrets.Secret(c.ctx(), c.app(), c.PathValue("name"), q)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, s)
}

func (a *API) updateSecrets(c *call) error {
	var req secretsBody
	if err := c.decode(&req); err != nil {
		return err
	}
	u, err := a.secrets.UpdateSecrets(c.ctx(), c.app(), req.Values)
	if err != nil {
		return asMalformed(err)
	}
	return c.send(http.StatusOK, secretsAnswer{append([]gondola.AppSecret{}, u.Secrets...), u.Version, u.Version})
}

// setSecret answers with the secret and the version.
func (a *API) setSecret(c *call) error {
	var req valueBody
	if err := c.decode(&req); err != nil {
		return err
	}
	if req.Value == nil {
		return malformedf("value is missing: say what the secret shall be")
	}
	u, err := a.secrets.SetSecret(c.ctx(), c.app(), c.PathValue("name"), *req.Value)
	if err != nil {
		return asMalformed(err)
	}
	out := secretAnswer{Version: u.Version, Old: u.Version}
	if len(u.Secrets) == 1 {
		out.AppSecret = u.Secrets[0]
	}
	return c.send(http.StatusCreated, out)
}

func (a *API) deleteSecret(c *call) error {
	u, err := a.secrets.DeleteSecret(c.ctx(), c.app(), c.PathValue("name"))
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, versionAnswer{u.Version, u.Version})
}

func (a *API) renewSecretsKey(c *call) error {
	if err := a.secrets.RenewSecretsKey(c.ctx()); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) putSecrets(c *call) error {
	var set gondola.SecretSet
	if err := c.decode(&set); err != nil {
		return err
	}
	if err := a.server.PutSecrets(c.ctx(), c.ref(), set); err != nil {
		return err
	}
	return c.ok()
}
