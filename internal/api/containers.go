package api

import "gondola"

func (a *API) addContainer(c *call) error {
	var req gondola.AddContainerRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := a.server.AddContainer(c.ctx(), c.ref(), req); err != nil {
		return err
	}
	return c.ok()
}
