package network

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Warning is a firewall of others that stops Machines' packets.
type Warning struct {
	Firewall string // what it is known as
	Detail   string // what it does
	Remedy   string // commands for root that let Machines through
}

// Warnings looks for firewalls beside the instance's own that stop what Machines send to the host or through it: chains that refuse what no rule
// accepts, and have no rule for the addresses of Machines or their links. In nftables an accept ends only the chain it is in, so the instance's
// table cannot overrule them.
func Warnings(cfg Config) ([]Warning, error) {
	n, err := newNetwork(cfg)
	if err != nil {
		return nil, err
	}
	all, err := reading().ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	chains := map[chainKey]*nftables.Chain{}
	for _, c := range all {
		chains[chainKey{c.Table.Family, c.Table.Name, c.Name}] = c
	}
	found := map[string]*obstacle{}
	for _, c := range all {
		if c.Hooknum == nil || c.Type != nftables.ChainTypeFilter || strings.HasPrefix(c.Table.Name, tableName("")) {
			continue
		}
		forward := *c.Hooknum == *nftables.ChainHookForward
		if !forward && *c.Hooknum != *nftables.ChainHookInput {
			continue
		}
		rules, err := reading().GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("read chain %s of nftables table %s: %w", c.Name, c.Table.Name, err)
		}
		if !refuses(c, rules) {
			continue
		}
		for _, f := range families() {
			if c.Table.Family != nftables.TableFamilyINet && c.Table.Family != nftables.TableFamily(f.nfproto) {
				continue
			}
			from, to := n.letThrough(c, chains, f)
			name := firewall(c, chains)
			if from && (to || !forward || name == "firewalld") { // which lets through what was translated, and answers, by itself
				continue
			}
			o := found[name]
			if o == nil {
				o = &obstacle{}
				found[name] = o
			}
			o.forward, o.input = o.forward || forward, o.input || !forward
			o.add(commands(name, c, f, n.own(f), forward)...)
		}
	}
	var warnings []Warning
	for _, name := range slices.Sorted(maps.Keys(found)) {
		warnings = append(warnings, found[name].warning(name))
	}
	return append(warnings, legacy(n.own(families()[0]))...), nil
}

type chainKey struct {
	family      nftables.TableFamily
	table, name string
}

// obstacle is what a firewall does, and what is to be typed.
type obstacle struct {
	input, forward bool
	commands       []string
}

func (o *obstacle) add(commands ...string) {
	for _, c := range commands {
		o.commands = include(o.commands, c)
	}
}

func (o *obstacle) warning(name string) Warning {
	var does []string
	if o.input {
		does = append(does, "what Machines send to this host: they reach neither the Kubernetes API nor DNS")
	}
	if o.forward {
		does = append(does, "what is forwarded: Machines reach neither each other nor the outside")
	}
	w := Warning{Firewall: name, Detail: "refuses " + strings.Join(does, "; and ")}
	switch name {
	case "firewalld":
		o.commands = append(o.commands, "firewall-cmd --reload")
	case "ufw":
	default:
		w.Detail += ". What lets them through must be kept where this firewall keeps its rules, or it is gone after a reboot"
	}
	w.Remedy = strings.Join(o.commands, " && ")
	return w
}

// refuses says whether a packet that no rule takes ends here: by the chain's policy, or by its last rule.
func refuses(c *nftables.Chain, rules []*nftables.Rule) bool {
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return true
	}
	if len(rules) == 0 {
		return false
	}
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return true
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		default: // it is for some packets only
			return false
		}
	}
	return false
}

// letThrough says whether a chain, or one that it leads to, has a rule for what comes from Machines, and one for what goes to them.
func (n *Network) letThrough(c *nftables.Chain, chains map[chainKey]*nftables.Chain, f family) (from, to bool) {
	todo, seen := []*nftables.Chain{c}, map[string]bool{c.Name: true}
	for len(todo) > 0 {
		c, todo = todo[0], todo[1:]
		rules, err := reading().GetRules(c.Table, c)
		if err != nil {
			continue // it has just been removed
		}
		for _, r := range rules {
			v, next := verdictOf(r)
			if next := chains[chainKey{c.Table.Family, c.Table.Name, next}]; next != nil && !seen[next.Name] {
				seen[next.Name] = true
				todo = append(todo, next)
			}
			if v == expr.VerdictAccept || v == expr.VerdictGoto || v == expr.VerdictJump {
				a, b := n.names(r, f)
				from, to = from || a, to || b
			}
		}
	}
	return from, to
}

func verdictOf(r *nftables.Rule) (expr.VerdictKind, string) {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok {
			return v.Kind, v.Chain
		}
	}
	return expr.VerdictContinue, ""
}

// names says whether a rule is for the addresses of Machines, or their links, as those who send and as those who receive.
func (n *Network) names(r *nftables.Rule, f family) (from, to bool) {
	own, link := n.own(f), linkPrefix(n.instance)
	var payload *expr.Payload
	var meta *expr.Meta
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			payload, meta = e, nil
		case *expr.Meta:
			payload, meta = nil, e
		case *expr.Cmp:
			switch {
			case e.Op != expr.CmpOpEq:
			case payload != nil && payload.Base == expr.PayloadBaseNetworkHeader:
				is := len(e.Data)*8 >= own.Bits() && bytes.HasPrefix(own.Addr().AsSlice(), e.Data)
				from, to = from || is && payload.Offset == f.saddr, to || is && payload.Offset == f.daddr
			case meta != nil:
				is := len(e.Data) > 0 && strings.HasPrefix(link, string(e.Data))
				from, to = from || is && meta.Key == expr.MetaKeyIIFNAME, to || is && meta.Key == expr.MetaKeyOIFNAME
			}
		}
	}
	return from, to
}

// firewall is whose a chain is.
func firewall(c *nftables.Chain, chains map[chainKey]*nftables.Chain) string {
	if c.Table.Name == "firewalld" {
		return "firewalld"
	}
	iptables := c.Table.Family != nftables.TableFamilyINet && c.Table.Name == "filter" && (c.Name == "INPUT" || c.Name == "FORWARD")
	for k := range chains {
		if iptables && k.family == c.Table.Family && k.table == c.Table.Name && strings.HasPrefix(k.name, "ufw") {
			return "ufw"
		}
	}
	switch {
	case iptables && c.Name == "FORWARD" && chains[chainKey{c.Table.Family, c.Table.Name, dockerChain}] != nil:
		return "Docker"
	case iptables:
		return "iptables"
	}
	return fmt.Sprintf("nftables table %s %s", familyName(c.Table.Family), c.Table.Name)
}

const dockerChain = "DOCKER-USER" // in FORWARD, before Docker's own rules

// commands let Machines of one family through.
func commands(firewall string, c *nftables.Chain, f family, machines netip.Prefix, forward bool) (list []string) {
	ip, iptables := "ip", "iptables"
	if f.words == 4 {
		ip, iptables = "ip6", "ip6tables"
	}
	ends := []string{"s"}
	if forward {
		ends = append(ends, "d")
	}
	for _, end := range ends {
		switch firewall {
		case "firewalld":
			return []string{fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-source=%s", machines)}
		case "ufw":
			verb, word := "ufw allow", map[string]string{"s": "from", "d": "to"}[end]
			if forward {
				verb = "ufw route allow"
			}
			list = append(list, fmt.Sprintf("%s %s %s", verb, word, machines))
		case "Docker":
			list = append(list, fmt.Sprintf("%s -I %s -%s %s -j ACCEPT", iptables, dockerChain, end, machines))
		case "iptables":
			list = append(list, fmt.Sprintf("%s -I %s -%s %s -j ACCEPT", iptables, c.Name, end, machines))
		default:
			list = append(list, fmt.Sprintf("nft insert rule %s %s %s %s %saddr %s accept", familyName(c.Table.Family), c.Table.Name, c.Name, ip, end, machines))
		}
	}
	return list
}

// legacy are the tables of iptables that are not in nftables: what is in them cannot be told.
func legacy(machines netip.Prefix) []Warning {
	if !hasLegacyFilter() {
		return nil
	}
	return []Warning{{
		Firewall: "legacy iptables",
		Detail:   "has a filter table, which nftables does not show: look whether it drops what Machines send (iptables-legacy -S)",
		Remedy: fmt.Sprintf("where it does: iptables-legacy -I INPUT -s %[1]s -j ACCEPT && iptables-legacy -I FORWARD -s %[1]s -j ACCEPT && "+
			"iptables-legacy -I FORWARD -d %[1]s -j ACCEPT, and the same by ip6tables-legacy for %[2]s", machines, SixPN()),
	}}
}

func hasLegacyFilter() bool {
	b, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(b)), "filter")
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	default:
		return fmt.Sprint(f)
	}
}
