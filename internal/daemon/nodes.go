package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"gondola"
	"gondola/internal/network"
)

// settingNodes is the key under which the server's file keeps the numbers of virtual nodes, by name: they are in the nodes' addresses, which
// must not move to other nodes under the Pods that run.
const settingNodes = "nodes"

// settleNodes numbers the virtual nodes. A release that kept no numbers went by the order of its regions.
func (p *platform) settleNodes(ctx context.Context) error {
	b, known, err := p.members.Setting(ctx, settingNodes)
	if err != nil {
		return err
	}
	kept := map[string]int{}
	if known {
		if err := json.Unmarshal([]byte(b), &kept); err != nil {
			return fmt.Errorf("virtual nodes of the last time: %w", err)
		}
	} else {
		before, err := p.keptRegions(ctx)
		if err != nil {
			return err
		}
		kept = numberNodes(nil, p.nodeNames(before))
	}
	p.numbers = numberNodes(kept, p.nodeNames(p.Config.Regions))
	after, err := json.Marshal(p.numbers)
	if err != nil {
		return err
	}
	return p.members.SetSetting(ctx, settingNodes, string(after))
}

// numberNodes gives the nodes of these names that have no number the first ones that are free. Nodes that are no longer there keep theirs as long as
// there are enough.
func numberNodes(kept map[string]int, names []string) map[string]int {
	all := map[string]int{}
	maps.Copy(all, kept)
	for _, name := range names {
		if _, ok := all[name]; ok {
			continue
		}
		if len(all) == network.MaxNodes {
			maps.DeleteFunc(all, func(name string, _ int) bool { return !slices.Contains(names, name) })
		}
		n := 1
		for slices.Contains(slices.Collect(maps.Values(all)), n) {
			n++
		}
		all[name] = n
	}
	return all
}

// nodeNames are the names of the virtual nodes of regions, NodesPerRegion for each.
func (p *platform) nodeNames(regions []gondola.Region) (names []string) {
	for _, r := range regions {
		for k := range p.Config.NodesPerRegion {
			names = append(names, p.nodeName(r, k))
		}
	}
	return names
}

// nodeName is the name of a region's k-th node, from 0.
func (p *platform) nodeName(r gondola.Region, k int) string {
	if p.Config.NodesPerRegion > 1 {
		return fmt.Sprintf("%s-%d", r, k+1)
	}
	return string(r)
}

// nodes are the virtual nodes of the cluster, in the order of the regions.
func (p *platform) nodes() ([]NodeConfig, error) {
	plan, err := p.plan()
	if err != nil {
		return nil, err
	}
	var out []NodeConfig
	for _, r := range p.Config.Regions {
		for k := range p.Config.NodesPerRegion {
			name := p.nodeName(r, k)
			v4, v6, err := plan.NodeAddress(1, p.numbers[name])
			if err != nil {
				return nil, err
			}
			out = append(out, NodeConfig{Name: name, Region: r, Addresses: []netip.Addr{v4, v6}, Gateway: name,
				Listen: func(address string) (net.Listener, error) { return p.network.ListenIn(p.Config.Cluster, name, address) }})
		}
	}
	return out, nil
}
