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
	if len(others) > 0 {
		n.log.Info("leaving sysctls as they are: another instance runs", "tables", others)
		return errors.Join(errs...)
	}
	// Forwarding last: switching it off resets others.
	paths := slices.SortedFunc(maps.Keys(state.Sysctls), func(a, b string) int { return strings.Compare(b, a) })
	slices.SortStableFunc(paths, func(a, b string) int { return forwarding(b) - forwarding(a) })
	for _, path := range paths {
		if err := restoreSysctl(path, state.Sysctls[path]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// forwarding is 1 for the switches of forwarding: they go first, because the kernel resets other values with them.
func forwarding(path string) int {
	if strings.HasSuffix(path, "forward") || strings.HasSuffix(path, "forwarding") {
		return 1
	}
	return 0
}

func restoreSysctl(path, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // its interface may be gone
		return fmt.Errorf("put sysctl %s back: %w", strings.ReplaceAll(path, "/", "."), err)
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
