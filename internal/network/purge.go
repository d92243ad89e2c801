package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gondola"
)

// Purge removes everything of the instance from this host: links, namespaces, addresses, routes and the table, and puts sysctls back that
// nobody has changed since. It goes on after an error and may be repeated. The Network is of no use afterwards.
func (n *Network) Purge(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.members, n.vips, n.owners = map[uint32]member{}, map[vipKey]string{}, map[netip.Addr]networkKey{}
	n.claims, n.pooled = map[vipKey]claim{}, map[netip.Addr]bool{}
	n.nodes, n.hostPorts = map[string]*nodeGateway{}, map[vipKey]gondola.MachineID{}
	ids, err := n.attached()
	errs := []error{err}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer h.Close()
	links, err := n.links(h)
	errs = append(errs, err)
	for _, l := range links {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete link %s: %w", l.Attrs().Name, err))
		}
	}
	for _, id := range ids {
		errs = append(errs, removeNetNS(filepath.Join(netnsDir, n.netnsName(id))))
	}
	n.policies = newPolicies()
	errs = append(errs, n.purgeTable(), n.purgeHost(), n.removePolicyFile())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge network of instance %s: %w", n.instance, err)
	}
	return n.state.remove()
}

// Purge is like the method, for an instance that is not open.
func Purge(ctx context.Context, cfg Config) error {
	n, err := newNetwork(cfg)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return gondola.Errorf(gondola.ErrUnsupported, "removing networks of Machines needs root: run gondola with sudo")
	}
	return n.Purge(ctx)
}

func (n *Network) purgeTable() error {
	found, err := n.tableExists()
	if err != nil || !found {
		return err
	}
	return n.deleteTable()
}

func (n *Network) purgeHost() error {
	state, err := n.state.read()
	if err != nil {
		return err
	}
	others, err := n.otherInstances()
	errs := []error{err}
	for _, p := range state.Routes {
		if p == SixPN() && len(others) > 0 {
			continue // theirs as well
		}
		errs = append(errs, n.removeRoute(p))
	}
	for _, a := range append(slices.Clone(state.Addresses), n.gateway4, n.gateway6) {
		errs = append(errs, n.removeAddress(a))
	}
	before := hostState{file: leftByOthers}
	if len(others) > 0 { // the last one puts them back
		return errors.Join(append(errs, before.update(func(r *hostRecord) { r.Sysctls = earlier(r.Sysctls, state.Sysctls) }))...)
	}
	r, err := before.read()
	errs = append(errs, err)
	sysctls := earlier(r.Sysctls, state.Sysctls)
	routers, err := routers()
	if errs = append(errs, err); len(routers) > 0 {
		maps.DeleteFunc(sysctls, func(path, was string) bool {
			stays := forwarding(path) > 0 || strings.HasSuffix(path, "/accept_ra") // without which a host that forwards loses its advertised route
			if stays && n.left != nil {
				n.left(fmt.Sprintf("%s stays as it is, and was %s before gondola: %s has rules for what is forwarded", sysctlName(path), was, strings.Join(routers, ", ")))
			}
			return stays
		})
	}
	// Forwarding first: switching it off resets others.
	paths := slices.SortedFunc(maps.Keys(sysctls), func(a, b string) int { return strings.Compare(b, a) })
	slices.SortStableFunc(paths, func(a, b string) int { return forwarding(b) - forwarding(a) })
	for _, path := range paths {
		if err := restoreSysctl(path, sysctls[path]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, before.remove())...)
}

// leftByOthers has the sysctls that instances changed which were removed before the last one. It goes with a reboot, as sysctls do.
const leftByOthers = "/run/gondola-network.json"

// earlier joins values of sysctls; the first are of an earlier time.
func earlier(first, then map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, then)
	maps.Copy(all, first)
	return all
}

// routers are the firewalls of others that have rules for what is forwarded, as container engines and VPNs do: they may rely on the switch.
func routers() (names []string, err error) {
	chains, err := reading().ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, c := range chains {
		if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && !strings.HasPrefix(c.Table.Name, tableName("")) {
			names = include(names, fmt.Sprintf("table %s %s", familyName(c.Table.Family), c.Table.Name))
		}
	}
	if hasLegacyFilter() {
		names = append(names, "legacy iptables")
	}
	return names, nil
}

// forwarding is 1 for the switches of forwarding: they go first, because the kernel resets other values with them.
func forwarding(path string) int {
	if strings.HasSuffix(path, "forward") || strings.HasSuffix(path, "forwarding") {
		return 1
	}
	return 0
}

func sysctlName(path string) string { return strings.ReplaceAll(path, "/", ".") }

func restoreSysctl(path, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // its interface may be gone
		return fmt.Errorf("put sysctl %s back: %w", sysctlName(path), err)
	}
	return nil
}

func (n *Network) otherInstances() (names []string, err error) {
	tables, err := reading().ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name != n.table.Name && strings.HasPrefix(t.Name, tableName("")) {
			names = append(names, t.Name)
		}
	}
	return names, nil
}
