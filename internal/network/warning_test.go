package network_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"gondola/internal/network"
)

func warnings(t *testing.T) []network.Warning {
	t.Helper()
	w, err := network.Warnings(config())
	check(t, err)
	return w
}

// dropping adds a table with these chains, which drop what no rule accepts; a chain without a hook only is there.
func dropping(t *testing.T, family nftables.TableFamily, table string, chains map[string]*nftables.ChainHook) {
	t.Helper()
	c, err := nftables.New()
	check(t, err)
	policy := nftables.ChainPolicyDrop
	in := c.AddTable(&nftables.Table{Name: table, Family: family})
	for name, hook := range chains {
		ch := &nftables.Chain{Table: in, Name: name}
		if hook != nil {
			ch.Type, ch.Hooknum, ch.Priority, ch.Policy = nftables.ChainTypeFilter, hook, nftables.ChainPriorityFilter, &policy
		}
		c.AddChain(ch)
	}
	check(t, c.Flush())
}

func TestWarnings_HaveRemediesThatHelp(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, ports(s.b, 8080)...)
	c4, c6, err := s.Plan().ClusterAddress(1)
	check(t, err)
	var host *guest
	host.serve(t, "api", c4, 6443)
	host.serve(t, "api", c6, 6443)
	if w := warnings(t); len(w) != 0 {
		t.Errorf("warnings %v on a host with nothing else", w)
	}
	dropping(t, nftables.TableFamilyINet, "filter", map[string]*nftables.ChainHook{"input": nftables.ChainHookInput, "forward": nftables.ChainHookForward})
	w := warnings(t)
	if len(w) != 1 || w[0].Firewall != "nftables table inet filter" || !strings.Contains(w[0].Detail, "Kubernetes API") || !strings.Contains(w[0].Detail, "the outside") {
		t.Fatalf("warnings %v, want one about the table with both that it does", w)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Log("the program nft is not installed (apt-get install nftables): nobody follows the remedy")
		return
	}
	for _, to := range []string{at(s.b.v4(), 8080), at(s.b.v6(), 8080), at(c4, 6443), at(c6, 6443)} {
		if name, _, err := s.a.ask("tcp", to); err == nil {
			t.Errorf("%s is reached through a firewall that drops everything: answer of %s", to, name)
		}
	}
	out, err := exec.Command("sh", "-c", w[0].Remedy).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", w[0].Remedy, err, out)
	}
	for _, a := range s.b.Addresses {
		s.a.reaches(t, "tcp", at(a, 8080), "b")
	}
	for _, vip := range s.vips() {
		s.a.reaches(t, "tcp", at(vip, 80), "b")
	}
	s.a.reaches(t, "tcp", at(c4, 6443), "api")
	s.a.reaches(t, "tcp", at(c6, 6443), "api")
	if w := warnings(t); len(w) != 0 {
		t.Errorf("warnings %v after their remedy was followed", w)
	}
}

func TestWarnings_KnowFirewallsByTheirChains(t *testing.T) {
	if !onHost(t) {
		return
	}
	remedies := map[string]string{}
	tell := func() {
		for _, w := range warnings(t) {
			remedies[w.Firewall] = w.Remedy
		}
	}
	hooks := map[string]*nftables.ChainHook{"INPUT": nftables.ChainHookInput, "FORWARD": nftables.ChainHookForward, "ufw-before-input": nil, "DOCKER-USER": nil}
	dropping(t, nftables.TableFamilyIPv4, "filter", hooks)
	tell()
	for _, want := range []string{"ufw allow from 10.64.0.0/10", "ufw route allow from 10.64.0.0/10", "ufw route allow to 10.64.0.0/10"} {
		if !strings.Contains(remedies["ufw"], want) || strings.Contains(remedies["ufw"], "fdaa") {
			t.Errorf("remedy %q, want %q in it, and nothing about IPv6, which passes", remedies["ufw"], want)
		}
	}
	dropping(t, nftables.TableFamilyIPv6, "filter", map[string]*nftables.ChainHook{"FORWARD": nftables.ChainHookForward, "DOCKER-USER": nil})
	tell()
	if want := "ip6tables -I DOCKER-USER -s fdaa::/16 -j ACCEPT && ip6tables -I DOCKER-USER -d fdaa::/16 -j ACCEPT"; remedies["Docker"] != want {
		t.Errorf("remedy %q, want %q", remedies["Docker"], want)
	}

	// A chain that accepts and refuses by its last rule, which leads to one that lets Machines through as the program iptables writes that.
	c, err := nftables.New()
	check(t, err)
	table := c.AddTable(&nftables.Table{Name: "firewalld", Family: nftables.TableFamilyINet})
	input := c.AddChain(&nftables.Chain{Table: table, Name: "filter_INPUT", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	zones := c.AddChain(&nftables.Chain{Table: table, Name: "filter_INPUT_ZONES"})
	trusted := c.AddChain(&nftables.Chain{Table: table, Name: "filter_IN_trusted"})
	c.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: zones.Name}}})
	c.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}})
	check(t, c.Flush())
	tell()
	if want := "firewall-cmd --permanent --zone=trusted --add-source=10.64.0.0/10 && firewall-cmd --permanent --zone=trusted --add-source=fdaa::/16 && firewall-cmd --reload"; remedies["firewalld"] != want {
		t.Errorf("remedy %q, want %q", remedies["firewalld"], want)
	}
	for _, own := range []netip.Prefix{network.DefaultRange(), network.SixPN()} {
		offset, proto := uint32(12), byte(2)
		if own.Addr().Is6() {
			offset, proto = 8, 10
		}
		b := own.Addr().AsSlice()
		c.AddRule(&nftables.Rule{Table: table, Chain: zones, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b[:2]},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: trusted.Name}}})
	}
	check(t, c.Flush())
	clear(remedies)
	tell()
	if r, still := remedies["firewalld"]; still {
		t.Errorf("remedy %q is asked for once more", r)
	}
}
