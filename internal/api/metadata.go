package api

import (
	"net/http"

	"gondola"
)

// metadataBody is the body of PUT and PATCH: null and "" delete a key.
type metadataBody struct {
	Metadata       map[string]*string `json:"metadata"`
	MachineVersion gondola.Version    `json:"machine_version"`
}

func (a *API) currentMetadata(c *call) (map[string]string, error) {
	m, err := a.server.Get(c.ctx(), c.ref())
	if err != nil {
		return nil, err
	}
	if m.Config == nil || m.Config.Metadata == nil {
		return map[string]string{}, nil
	}
	return m.Config.Metadata, nil
}

func (a *API) getMetadata(c *call) error {
	md, err := a.currentMetadata(c)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, md)
}

func (a *API) getMetadataKey(c *call) error {
	md, err := a.currentMetadata(c)
	if err != nil {
		return err
	}
	v, ok := md[c.PathValue("key")]
	if !ok {
		return gondola.Errorf(gondola.ErrNotFound, "machine %s has no metadata %q", c.ref().ID, c.PathValue("key"))
	}
	return c.send(http.StatusOK, valueAnswer{v})
}

// patchMetadata merges.
func (a *API) patchMetadata(c *call) error {
	var body metadataBody
	if err := c.decode(&body); err != nil {
		return err
	}
	return a.changeMetadata(c, body.MachineVersion, body.Metadata)
}

// putMetadata replaces: what the body does not name is deleted.
func (a *API) putMetadata(c *call) error {
	var body metadataBody
	if err := c.decode(&body); err != nil {
		return err
	}
	if body.Metadata == nil {
		return malformedf("metadata is missing: send {\"metadata\":{…}}, and {\"metadata\":{}} to delete all of it")
	}
	md, err := a.currentMetadata(c)
	if err != nil {
		return err
	}
	values := map[string]*string{}
	for key := range md {
		values[key] = nil
	}
	for key, v := range body.Metadata {
		values[key] = v
	}
	return a.changeMetadata(c, body.MachineVersion, values)
}

func (a *API) setMetadataKey(c *call) error {
	var body valueBody
	if err := c.decode(&body); err != nil {
		return err
	}
	if body.Value == nil {
		return malformedf("value is missing: send {\"value\":\"…\"}")
	}
	return a.changeMetadata(c, "", map[string]*string{c.PathValue("key"): body.Value})
}

func (a *API) deleteMetadataKey(c *call) error {
	return a.changeMetadata(c, "", map[string]*string{c.PathValue("key"): nil})
}

func (a *API) changeMetadata(c *call, version gondola.Version, values map[string]*string) error {
	if err := a.permitMetadata(c, values); err != nil {
		return err
	}
	if err := a.server.SetMetadata(c.ctx(), c.ref(), version, values); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
