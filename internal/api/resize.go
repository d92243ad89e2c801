package api

import (
	"net/http"

	"gondola"
)

func (a *API) resize(c *call) error {
	var req gondola.ResizeRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	m, err := a.server.Resize(c.ctx(), c.ref(), req)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, shown(m))
}
