package api

import (
	"net/http"

	"gondola"
)

func (a *API) putNetworkPolicy(c *call) error {
	var p gondola.NetworkPolicy
	if err := c.decode(&p); err != nil {
		return err
	}
	p, err := a.policies.PutNetworkPolicy(c.ctx(), c.app(), p)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, shownPolicy(p))
}

func (a *API) listNetworkPolicies(c *call) error {
	list, err := a.policies.ListNetworkPolicies(c.ctx(), c.app())
	if err != nil {
		return err
	}
	out := make([]gondola.NetworkPolicy, 0, len(list))
	for _, p := range list {
		out = append(out, shownPolicy(p))
	}
	return c.send(http.StatusOK, out)
}

func (a *API) deleteNetworkPolicy(c *call) error {
	if err := a.policies.DeleteNetworkPolicy(c.ctx(), c.app(), c.PathValue("policy")); err != nil {
		return err
	}
	return c.ok()
}

// shownPolicy has no list that is null.
func shownPolicy(p gondola.NetworkPolicy) gondola.NetworkPolicy {
	rules := make([]gondola.NetworkRule, 0, len(p.Rules))
	for _, r := range p.Rules {
		if r.Ports == nil {
			r.Ports = []gondola.NetworkPort{}
		}
		rules = append(rules, r)
	}
	p.Rules = rules
	return p
}
