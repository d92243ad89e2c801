package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/policy"
)

func one(p ...gondola.Policy) map[string]gondola.PolicySet {
	return map[string]gondola.PolicySet{"k": {Policies: p, Groups: []gondola.PolicyGroup{{Name: "web"}, {Name: "db"}, {Name: "http"}}}}
}

func where(key, op string, values ...string) gondola.MachineSelector {
	return gondola.MachineSelector{Metadata: []gondola.MetadataMatch{{Key: key, Op: op, Values: values}}}
}

func allow(r ...gondola.PolicyRule) *gondola.PolicyRules { return &gondola.PolicyRules{Allow: r} }

func cidr(s string, except ...string) gondola.PolicyPeer {
	p := netip.MustParsePrefix(s)
	peer := gondola.PolicyPeer{Range: &p}
	for _, e := range except {
		peer.Except = append(peer.Except, netip.MustParsePrefix(e))
	}
	return peer
}

// text is a Side in a line.
func text(s *policy.Side) string {
	if s == nil {
		return "open"
	}
	var rules []string
	for _, r := range s.Rules {
		peer, port := "any", "all"
		if r.Peer.Group != "" {
			peer = r.Peer.Group
		}
		for i, a := range r.Peer.Ranges {
			if i == 0 {
				peer = ""
			}
			peer += fmt.Sprintf("[%s-%s]", a.First, a.Last)
		}
		if r.Port.Group != "" {
			port = r.Port.Group
		}
		if r.Port.Protocol != "" {
			port = r.Port.Protocol + fmt.Sprint(r.Port.Ports)
		}
		rules = append(rules, peer+" "+port)
	}
	return "{" + strings.Join(rules, "; ") + "}"
}

func TestFor(t *testing.T) {
	group := func(names ...string) (peers []gondola.PolicyPeer) {
		for _, n := range names {
			peers = append(peers, gondola.PolicyPeer{Group: n})
		}
		return peers
	}
	everybody := gondola.MachineSelector{}
	rows := []struct {
		name            string
		policies        []gondola.Policy
		ingress, egress string
	}{
		{"no policy isolates nothing", nil, "open", "open"},
		{"a policy that selects others isolates nothing", []gondola.Policy{{Selector: where("app", "in", "other"), Ingress: allow()}}, "open", "open"},
		{"one direction alone", []gondola.Policy{{Selector: everybody, Egress: allow()}}, "open", "{}"},
		{"deny all", []gondola.Policy{{Selector: everybody, Ingress: allow(), Egress: allow()}}, "{}", "{}"},
		{"allow all", []gondola.Policy{{Selector: everybody, Ingress: allow(gondola.PolicyRule{})}}, "{any all}", "open"},
		{"policies add up, what is there twice counts once", []gondola.Policy{
			{Selector: everybody, Ingress: allow(gondola.PolicyRule{Peers: group("web", "db")})},
			{Selector: where("app", "in", "x", "shop"), Ingress: allow(gondola.PolicyRule{Peers: group("web")})},
			{Selector: where("app", "not_in", "shop"), Ingress: allow(gondola.PolicyRule{})},
		}, "{k/db all; k/web all}", "open"},
		{"peers by ports", []gondola.Policy{{Selector: where("app", "exists"), Ingress: allow(gondola.PolicyRule{Peers: group("web"), Ports: []gondola.PolicyPort{
			{Port: 80}, {Protocol: "udp", Port: 53}, {Port: 81, EndPort: 90}, {Port: 85, EndPort: 100}, {Port: 443}, {Group: "http"}}})}},
			"{k/web tcp[{80 100} {443 443}]; k/web udp[{53 53}]; k/web k/http}", "open"},
		{"every port of a protocol", []gondola.Policy{{Selector: where("none", "not_exists"), Egress: allow(gondola.PolicyRule{Ports: []gondola.PolicyPort{
			{Protocol: "sctp"}, {Protocol: "sctp", Port: 7}}})}}, "open", "{any sctp[]}"},
		{"ranges without parts", []gondola.Policy{{Selector: everybody, Egress: allow(gondola.PolicyRule{Peers: []gondola.PolicyPeer{
			cidr("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/24"), cidr("192.0.2.0/25"), cidr("192.0.2.128/25"), cidr("::/0", "8000::/1")}})}},
			"open", "{[10.0.1.0-10.0.255.255][10.2.0.0-10.255.255.255][192.0.2.0-192.0.2.255][::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff] all}"},
		{"a range of which nothing is left allows nothing", []gondola.Policy{{Selector: everybody, Egress: allow(gondola.PolicyRule{Peers: []gondola.PolicyPeer{
			cidr("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1")}})}}, "open", "{}"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			p, err := policy.Compile(one(r.policies...))
			if err != nil {
				t.Fatal(err)
			}
			ingress, egress := p.For(gondola.PolicySubject{ID: "1", App: "a", Metadata: map[string]string{"app": "shop"}})
			if text(ingress) != r.ingress || text(egress) != r.egress {
				t.Errorf("ingress %s, egress %s; want %s and %s", text(ingress), text(egress), r.ingress, r.egress)
			}
		})
	}
}

func TestFor_OwnersAddUpAndKeepTheirGroups(t *testing.T) {
	mine := gondola.PolicySet{Groups: []gondola.PolicyGroup{{Name: "web"}}, Policies: []gondola.Policy{{Selector: gondola.MachineSelector{Machines: []gondola.MachineID{"1"}},
		Ingress: allow(gondola.PolicyRule{Peers: []gondola.PolicyPeer{{Group: "web"}}})}}}
	theirs := mine
	theirs.Policies = []gondola.Policy{{Selector: gondola.MachineSelector{App: "a"}, Ingress: mine.Policies[0].Ingress}}
	p, err := policy.Compile(map[string]gondola.PolicySet{"x": mine, "y": theirs})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		id   gondola.MachineID
		app  gondola.AppName
		want string
	}{{"1", "b", "{x/web all}"}, {"2", "a", "{y/web all}"}, {"1", "a", "{x/web all; y/web all}"}, {"2", "b", "open"}} {
		if in, _ := p.For(gondola.PolicySubject{ID: r.id, App: r.app}); text(in) != r.want {
			t.Errorf("machine %s of app %s: %s, want %s", r.id, r.app, text(in), r.want)
		}
	}
}

func TestCompile_NamesWhatIsWrong(t *testing.T) {
	rule := func(r gondola.PolicyRule) gondola.Policy {
		return gondola.Policy{Name: "default/p", Ingress: allow(r)}
	}
	peer := func(p ...gondola.PolicyPeer) gondola.Policy { return rule(gondola.PolicyRule{Peers: p}) }
	port := func(p ...gondola.PolicyPort) gondola.Policy { return rule(gondola.PolicyRule{Ports: p}) }
	for want, p := range map[string]gondola.Policy{
		`there is no group "x"`:               peer(gondola.PolicyPeer{Group: "x"}),
		"a peer is either":                    peer(gondola.PolicyPeer{}),
		"except 11.0.0.0/24 is not within":    peer(cidr("10.0.0.0/8", "11.0.0.0/24")),
		`protocol "icmp": use tcp`:            port(gondola.PolicyPort{Protocol: "icmp"}),
		"ports 90 to 80":                      port(gondola.PolicyPort{Port: 90, EndPort: 80}),
		`port group "http": a port is either`: port(gondola.PolicyPort{Group: "http", Port: 1}),
		`op "like"`:                           {Name: "default/p", Selector: where("app", "like")},
	} {
		_, err := policy.Compile(one(p))
		if err == nil || !errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "default/p") {
			t.Errorf("Compile = %v, want an ErrInvalid with default/p and %q", err, want)
		}
	}
}
