package network_test

import (
	"testing"

	"github.com/google/nftables"
)

// Machines run on over an upgrade, and their table is taken over: once it had no links, but networks.
func TestOpen_TakesOverTheTableOfAnOlderRelease(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, ports(s.b, 8080)...)
	red := attach(t, s.Network, 9, "red", 8)
	c, err := nftables.New()
	check(t, err)
	table := &nftables.Table{Name: "gondola-test1234", Family: nftables.TableFamilyINet}
	links, err := c.GetSetByName(table, "links")
	check(t, err)
	elements, err := c.GetSetElements(links)
	check(t, err)
	if len(elements) != 4 {
		t.Fatalf("%d links, want those of four Machines", len(elements))
	}
	check(t, c.SetDeleteElements(links, elements))
	for i := range elements {
		elements[i].Val = elements[i].Val[4:]
	}
	check(t, c.AddSet(&nftables.Set{Table: table, Name: "networks", IsMap: true, KeyType: nftables.TypeIFIndex,
		DataType: nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeMark)}, elements))
	check(t, c.Flush())
	s.a.refused(t, "tcp", at(s.b.v4(), 8080))

	open(t)
	for _, to := range []string{at(s.b.v4(), 8080), at(s.b.v6(), 8080), at(s.vip4, 80), at(s.vip6, 80)} {
		s.a.reaches(t, "tcp", to, "b")
		red.refused(t, "tcp", to)
	}
	sets, err := c.GetSets(table)
	check(t, err)
	for _, s := range sets {
		if s.Name == "networks" {
			t.Error("the map of the older release is still there")
		}
	}
}
