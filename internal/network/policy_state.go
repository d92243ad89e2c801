package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"gondola"
	"gondola/internal/policy"
)

// policyFile is where policies are kept for Machines that are attached before somebody sets them again: after a reboot, all of them.
func (n *Network) policyFile() string {
	if n.state.file == "" {
		return ""
	}
	return strings.TrimSuffix(n.state.file, ".json") + "-policies.json"
}

// writePolicyFile has the policies on disk when it returns.
func (n *Network) writePolicyFile() error {
	if n.policyFile() == "" {
		return nil
	}
	all := map[string]map[string]gondola.PolicySet{}
	for key, sets := range n.policies.sets {
		if len(sets) > 0 {
			all[n.policies.names[key]] = sets
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(n.policyFile()); err == nil && string(old) == string(b) || len(all) == 0 && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return writeFile(n.policyFile(), b)
}

func (n *Network) readPolicyFile() error {
	if n.policyFile() == "" {
		return nil
	}
	b, err := os.ReadFile(n.policyFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	all := map[string]map[string]gondola.PolicySet{}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	for name, sets := range all {
		key := networkKeyOf(name)
		compiled, compileErr := policy.Compile(sets)
		err = errors.Join(err, compileErr)
		n.policies.names[key], n.policies.sets[key], n.policies.compiled[key] = name, sets, compiled
	}
	if err != nil {
		return fmt.Errorf("read policies %s: %w", n.policyFile(), err)
	}
	return nil
}

func (n *Network) removePolicyFile() error {
	if err := os.Remove(n.policyFile()); n.policyFile() != "" && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// loadPoliciesLocked reads what an earlier process did for policies, and drops it for Machines that are gone.
func (n *Network) loadPoliciesLocked() error {
	p := &n.policies
	for _, f := range families() {
		for _, ingress := range []bool{true, false} {
			elements, err := reading().GetSetElements(n.set(verdictMap(ingress, family{})+"%s", f))
			if err != nil {
				return err
			}
			for _, e := range elements {
				a, _ := netip.AddrFromSlice(e.Key)
				p.verdicts[flowEnd{ingress, a}] = verdictChain(e.Val)
			}
		}
	}
	if err := n.loadFlowChains(); err != nil {
		return err
	}
	sets, err := reading().GetSets(n.table)
	if err != nil {
		return err
	}
	for _, s := range sets {
		if !isGroupSet(s.Name) {
			continue
		}
		elements, err := reading().GetSetElements(n.groupSet(s.Name))
		if err != nil {
			return err
		}
		p.groups[s.Name] = map[string]struct{}{}
		for _, e := range elements {
			p.groups[s.Name][string(e.Key)] = struct{}{}
		}
	}
	present := map[netip.Addr]bool{}
	for _, m := range n.members {
		present[m.v4], present[m.v6] = true, true
	}
	var gone []netip.Addr
	for end := range p.verdicts {
		if !present[end.addr] {
			gone = append(gone, end.addr)
		}
	}
	return n.enforce(nil, gone)
}

// loadFlowChains finds the chains and the sets that each looks into.
func (n *Network) loadFlowChains() error {
	chains, err := reading().ListChainsOfTableFamily(n.table.Family)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Table.Name != n.table.Name || !isFlowChain(c.Name) {
			continue
		}
		rules, err := reading().GetRules(n.table, &nftables.Chain{Table: n.table, Name: c.Name})
		if err != nil {
			return err
		}
		sets := []string{}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if l, ok := e.(*expr.Lookup); ok && isGroupSet(l.SetName) {
					sets = append(sets, l.SetName)
				}
			}
		}
		n.policies.chains[c.Name] = sets
	}
	return nil
}

func isFlowChain(name string) bool {
	for _, f := range families() {
		if strings.HasPrefix(name, verdictMap(true, f)+"-") || strings.HasPrefix(name, verdictMap(false, f)+"-") {
			return true
		}
	}
	return false
}

func isGroupSet(name string) bool {
	for _, f := range families() {
		if strings.HasPrefix(name, "group"+f.suffix+"-") || strings.HasPrefix(name, "ends"+f.suffix+"-") {
			return true
		}
	}
	return false
}
