package network

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
)

// Warnings says what else on this host may stop Machines' packets, each with a remedy: chains of other tables that drop by default. In
// nftables an accept ends only the chain it is in, so the instance's own table cannot overrule them.
func Warnings() ([]string, error) {
	chains, err := reading().ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var warnings []string
	for _, c := range chains {
		if c.Hooknum == nil || c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop || strings.HasPrefix(c.Table.Name, tableName("")) {
			continue
		}
		where := fmt.Sprintf("chain %s of nftables table %s %s", c.Name, familyName(c.Table.Family), c.Table.Name)
		switch *c.Hooknum {
		case *nftables.ChainHookForward:
			warnings = append(warnings, fmt.Sprintf("%s drops forwarded packets by default, so Machines may not reach each other or the outside; "+
				"accept there what comes from and goes to links named g*%s", where, dockerHint(c)))
		case *nftables.ChainHookInput:
			warnings = append(warnings, fmt.Sprintf("%s drops incoming packets by default, so Machines may not reach the API server and DNS; "+
				"accept there what comes from links named g*", where))
		}
	}
	tables, err := reading().ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == "firewalld" {
			warnings = append(warnings, "firewalld is active and rejects forwarded packets of links it does not know: firewall-cmd --permanent --zone=trusted --add-source=10.64.0.0/10 && firewall-cmd --reload")
		}
	}
	if b, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && strings.Contains(string(b), "filter") {
		warnings = append(warnings, "legacy iptables has a filter table, which nftables does not show: check that its FORWARD chain accepts (iptables-legacy -S FORWARD)")
	}
	return warnings, nil
}

func dockerHint(c *nftables.Chain) string {
	if c.Table.Name == "filter" && c.Name == "FORWARD" {
		return " (with Docker: iptables -I DOCKER-USER -i g+ -j ACCEPT; iptables -I DOCKER-USER -o g+ -j ACCEPT; with ufw: ufw default allow routed)"
	}
	return ""
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
