package api

import "gondola"

func (a *API) setPolicies(c *call) error {
	var set gondola.PolicySet
	if err := c.decode(&set); err != nil {
		return err
	}
	if err := a.server.SetPolicies(c.ctx(), c.PathValue("network"), c.PathValue("owner"), set); err != nil {
		return err
	}
	return c.ok()
}
