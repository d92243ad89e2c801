package gondolatest

import (
	"reflect"

	"gondola"
)

// networkPolicies checks gondola.NetworkPolicies, which a worker does not have.
func (s *suite) networkPolicies() {
	p, ok := s.p.(gondola.NetworkPolicies)
	if !ok {
		return
	}
	web := gondola.NetworkPolicy{Name: "web", Selector: gondola.NetworkSelector{Metadata: map[string]string{"role": "web"}},
		Rules: []gondola.NetworkRule{{Action: "allow", Direction: "ingress", Ports: []gondola.NetworkPort{{Protocol: "tcp", Port: 8080}}}}}
	made, err := p.PutNetworkPolicy(s.Context(), suiteApp, web)
	s.no(err, "PutNetworkPolicy")
	if web.ID = made.ID; made.ID == "" || !reflect.DeepEqual(made, web) {
		s.Errorf("PutNetworkPolicy = %+v, want %+v with an id", made, web)
	}
	web.Rules[0].Ports[0].Port = 80
	_, err = p.PutNetworkPolicy(s.Context(), suiteApp, web)
	s.no(err, "PutNetworkPolicy of one that is there")
	second, err := p.PutNetworkPolicy(s.Context(), suiteApp, gondola.NetworkPolicy{Name: "all", Selector: gondola.NetworkSelector{All: true}, Rules: web.Rules})
	s.no(err, "PutNetworkPolicy of another")
	if list, err := p.ListNetworkPolicies(s.Context(), suiteApp); err != nil || !reflect.DeepEqual(list, []gondola.NetworkPolicy{web, second}) {
		s.Errorf("ListNetworkPolicies = %+v, %v; want %+v and %+v", list, err, web, second)
	}
	s.no(p.DeleteNetworkPolicy(s.Context(), suiteApp, second.ID), "DeleteNetworkPolicy")
	s.wants(p.DeleteNetworkPolicy(s.Context(), suiteApp, second.ID), gondola.ErrNotFound, "DeleteNetworkPolicy again")
	_, err = p.PutNetworkPolicy(s.Context(), suiteApp, second)
	s.wants(err, gondola.ErrNotFound, "PutNetworkPolicy with the id of one that is gone")
	_, err = p.ListNetworkPolicies(s.Context(), "no-such-app")
	s.wants(err, gondola.ErrNotFound, "ListNetworkPolicies of an app that is not there")
	for what, wrong := range map[string]gondola.NetworkPolicy{
		"no name":       {Selector: web.Selector},
		"no selector":   {Name: "x"},
		"not allow":     {Name: "x", Selector: web.Selector, Rules: []gondola.NetworkRule{{Action: "deny", Direction: "ingress"}}},
		"no direction":  {Name: "x", Selector: web.Selector, Rules: []gondola.NetworkRule{{Action: "allow"}}},
		"no such layer": {Name: "x", Selector: web.Selector, Rules: []gondola.NetworkRule{{Action: "allow", Direction: "egress", Ports: []gondola.NetworkPort{{Protocol: "icmp"}}}}},
	} {
		_, err := p.PutNetworkPolicy(s.Context(), suiteApp, wrong)
		s.wants(err, gondola.ErrInvalid, "PutNetworkPolicy with "+what)
	}
}
