package network_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"gondola"
	"gondola/internal/network"
)

// inventory is all of a host's network, as lines.
func inventory(t *testing.T) (lines []string) {
	t.Helper()
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	c, err := nftables.New()
	check(t, err)
	tables, err := c.ListTables()
	check(t, err)
	for _, table := range tables {
		add("table %s", table.Name)
	}
	links, err := netlink.LinkList()
	check(t, err)
	for _, l := range links {
		add("link %s %s", l.Attrs().Name, l.Attrs().Alias)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	check(t, err)
	for _, a := range addrs {
		add("address %s", a)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		check(t, err)
		for _, r := range routes {
			add("route %s", r)
		}
	}
	entries, _ := os.ReadDir("/run/netns")
	for _, e := range entries {
		add("netns %s", e.Name())
	}
	for _, s := range []string{"ipv6/conf/lo/disable_ipv6", "ipv6/conf/all/disable_ipv6", "ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/lo/forwarding", "ipv4/conf/all/accept_redirects"} {
		b, err := os.ReadFile("/proc/sys/net/" + s)
		check(t, err)
		add("sysctl %s %s", s, strings.TrimSpace(string(b)))
	}
	slices.Sort(lines)
	return lines
}

func TestPurge_LeavesTheHostAsItWas(t *testing.T) {
	if !onHost(t) {
		return
	}
	check(t, network.Purge(t.Context(), config())) // nothing is there
	before := inventory(t)
	s := withServices(t)
	s.set(t, 60, append(ports(s.b, 8080), ports(s.c, 8081)...)...)
	check(t, s.Detach(t.Context(), s.c.ID))
	check(t, s.Detach(t.Context(), s.c.ID))
	_, err := os.Stat("/tmp/network.json")
	check(t, err)
	for range 2 {
		check(t, network.Purge(t.Context(), config())) // by another process, which knows nothing
	}
	if after := inventory(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if _, err := os.Stat("/tmp/network.json"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file is still there: %v", err)
	}
}

func TestReleaseHost_TakesAwayWhatEnsureHostAdded(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	before := inventory(t)
	plan := network.HostPlan{Addresses: addrs("10.127.240.64", "fdaa:ffff::1:1"),
		ServiceRanges: []network.ServiceRange{{Prefix: netip.MustParsePrefix("10.43.0.0/16")}, {Prefix: netip.MustParsePrefix("fdaa:fffe::1:0/112")}}} // by the gateway, which stays
	check(t, n.EnsureHost(t.Context(), plan))
	check(t, n.ReleaseHost(t.Context(), plan))
	if after := inventory(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func TestPurge_OfTwoInstancesTheLastPutsTheHostBack(t *testing.T) {
	if !onHost(t) {
		return
	}
	check(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)) // a new namespace may have the first one's
	before := inventory(t)
	one := open(t)
	cfg := config()
	cfg.Instance, cfg.StateFile, cfg.Range = "other567", "/tmp/other.json", netip.MustParsePrefix("10.128.0.0/10")
	_, err := network.Open(cfg) // which finds forwarding on
	check(t, err)
	check(t, one.Purge(t.Context()))
	if !forwards(t) {
		t.Error("forwarding is off, and an instance is left that needs it")
	}
	check(t, network.Purge(t.Context(), cfg))
	if after := inventory(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if left, _ := filepath.Glob("/run/gondola*"); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

func forwards(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	check(t, err)
	return strings.TrimSpace(string(b)) == "1"
}

func TestPurge_LeavesForwardingOnForOthersThatForward(t *testing.T) {
	if !onHost(t) {
		return
	}
	check(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0))
	n := open(t)
	attach(t, n, 1, "blue", 7)
	dropping(t, nftables.TableFamilyIPv4, "filter", map[string]*nftables.ChainHook{"FORWARD": nftables.ChainHookForward}) // as Docker's
	cfg, said := config(), ""
	cfg.Left = func(what string) { said += what + "\n" }
	check(t, network.Purge(t.Context(), cfg))
	if want := "net.ipv4.ip_forward stays as it is, and was 0 before gondola: table ip filter has rules for what is forwarded\n"; !forwards(t) || !strings.Contains(said, want) {
		t.Errorf("forwarding is on: %v; said %q, want it on and %q said", forwards(t), said, want)
	}
}

func TestOpen_WorksWhereIPv6IsSwitchedOff(t *testing.T) {
	if !onHost(t) {
		return
	}
	for _, links := range []string{"all", "default"} {
		check(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+links+"/disable_ipv6", []byte("1"), 0))
	}
	before := inventory(t)
	s := withNodes(t)
	s.set(t, 0, ports(s.b, 8080)...)
	for _, proto := range []string{"tcp", "udp"} {
		s.a.reaches(t, proto, at(s.b.v6(), 8080), "b")
		s.a.reaches(t, proto, at(s.vip6, 80), "b")
		s.red.refused(t, proto, at(s.b.v6(), 8080))
	}
	var host *guest
	host.reaches(t, "tcp", at(s.b.v6(), 8080), "b")
	check(t, s.Purge(t.Context()))
	if after := inventory(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func TestPurge_LeavesOtherInstancesAlone(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := attach(t, n, 1, "blue", 7), attach(t, n, 2, "blue", 7)
	b.serve(t, "b", b.v6(), 80)
	other := config()
	other.Instance, other.StateFile, other.Range = "other567", "/tmp/other.json", netip.MustParsePrefix("10.128.0.0/10")
	o, err := network.Open(other)
	check(t, err)
	c := attach(t, o, 1, "blue", 7)
	c.serve(t, "c", c.v6(), 80)
	c.serve(t, "c", c.v4(), 80)
	a.refused(t, "tcp", at(c.v6(), 80)) // networks are an instance's own
	a.refused(t, "tcp", at(c.v4(), 80))
	ids, err := n.Attached()
	check(t, err)
	if len(ids) != 2 || slices.Contains(ids, c.ID) {
		t.Errorf("attached %v, want those of the instance", ids)
	}
	check(t, o.Purge(t.Context()))
	a.reaches(t, "tcp", at(b.v6(), 80), "b")
	if ids, err := o.Attached(); err != nil || len(ids) != 0 {
		t.Errorf("attached to the purged one: %v, %v", ids, err)
	}
}

func TestCheckRange_ProposesAnotherOne(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	attach(t, n, 1, "blue", 7)
	check(t, n.CheckRange(network.DefaultRange())) // its own routes do not count
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	vpn, err := netlink.ParseIPNet("10.70.0.0/16")
	check(t, err)
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: vpn}))
	err = n.CheckRange(network.DefaultRange())
	if want := "address range 10.64.0.0/10 overlaps the route to 10.70.0.0/16 on this host; 10.128.0.0/10 is free"; !errors.Is(err, gondola.ErrConflict) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	for _, c := range []struct{ taken, want string }{
		{"10.128.0.0/16", "10.192.0.0/10 is free"},
		{"10.0.0.0/8", "100.64.0.0/10 is free"}, // as a VPN has it
		{"100.100.100.100/32", "remove that route"},
	} {
		taken, err := netlink.ParseIPNet(c.taken)
		check(t, err)
		check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: taken}))
		if err := n.CheckRange(network.DefaultRange()); err == nil || !strings.HasSuffix(err.Error(), "on this host; "+c.want) {
			t.Errorf("with a route to %s: error %v, want %s", c.taken, err, c.want)
		}
	}
}

func TestServiceRanges_KeepOffTheHostsNetworks(t *testing.T) {
	if !onHost(t) {
		return
	}
	lan := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "lan-peer"}
	lan.Name = "lan"
	check(t, netlink.LinkAdd(lan))
	check(t, netlink.LinkSetUp(lan))
	free := func(want int) {
		t.Helper()
		if k, err := network.FreeServiceRange(config()); err != nil || k != want {
			t.Errorf("Service ranges %d, %v are free; want %d", k, err, want)
		}
	}
	free(1)
	address, err := netlink.ParseAddr("10.43.7.1/24")
	check(t, err)
	check(t, netlink.AddrAdd(lan, address))
	free(2)
	err = network.CheckServiceRange(config(), 1)
	if !errors.Is(err, gondola.ErrConflict) || !strings.Contains(err.Error(), "10.43.0.0/16 overlaps the route to 10.43.7.") || !strings.Contains(err.Error(), "--no-kubernetes") {
		t.Errorf("error %v, want both routes and the way out named", err)
	}
	check(t, netlink.AddrDel(lan, address))

	s := withServices(t)
	free(1) // its own
	check(t, network.CheckServiceRange(config(), 1))
	other := config()
	other.Instance, other.StateFile, other.Range = "other567", "/tmp/other.json", netip.MustParsePrefix("10.128.0.0/10")
	if k, err := network.FreeServiceRange(other); err != nil || k != 2 {
		t.Errorf("Service ranges %d, %v are free for another instance; want 2", k, err)
	}
	// The very same route, elsewhere.
	same, err := netlink.ParseIPNet("10.43.0.0/16")
	check(t, err)
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lan.Index, Dst: same, Priority: 100}))
	free(2)
	// All of 10.0.0.0/8 behind a VPN: the first range in which none of the host's networks lies.
	all, err := netlink.ParseIPNet("10.0.0.0/8")
	check(t, err)
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lan.Index, Dst: all}))
	free(2)
	check(t, network.CheckServiceRange(config(), 2))
	check(t, s.Purge(t.Context()))
}
