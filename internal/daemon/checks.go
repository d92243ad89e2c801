package daemon

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"gondola/internal/host"
	"gondola/internal/network"
)

// Check is one thing that a host needs or that is good to know.
type Check = host.Check

// Checks looks at this host, for `gondola doctor`, with the ports and the range of a configuration.
func Checks(c Config) []Check {
	list := slices.DeleteFunc(host.Checks(), func(k Check) bool { return strings.HasPrefix(k.Name, "port ") })
	c, err := c.complete()
	if err != nil {
		return append(list, Check{Name: "configuration", Required: true, Detail: err.Error(), Remedy: "correct it"})
	}
	list = append(list, firewalls(c)...)
	if fresh, err := isFresh(c.Data); err == nil && !fresh {
		if h := holderOf(c.Data); h.pid > 0 {
			return append(list, Check{Name: "ports and range", OK: true, Detail: "in use by the gondola that runs in " + c.Data})
		}
	}
	list = append(list, checkAPI(c), checkCluster(c), checkRange(c))
	if fresh, err := isFresh(c.Data); fresh || err != nil { // else a cluster has its ranges, and `up` says whether they are free
		list = append(list, checkServices(c))
	}
	return list
}

// firewalls are those of others that stop Machines' packets; only root is told.
func firewalls(c Config) (list []Check) {
	if os.Geteuid() != 0 {
		return nil
	}
	cfg, err := hostNetwork(c)
	var all []network.Warning
	if err == nil {
		all, err = network.Warnings(cfg)
	}
	if err != nil {
		return []Check{{Name: "firewalls", Detail: err.Error()}}
	}
	for _, w := range all {
		list = append(list, Check{Name: w.Firewall, Detail: w.Detail, Remedy: w.Remedy})
	}
	return list
}

// hostNetwork is what the network would be opened with. An installation that is yet to come has a name that nobody has.
func hostNetwork(c Config) (network.Config, error) {
	instance, err := readInstance(c.Data)
	if err != nil {
		instance = strings.Repeat("a", 8)
	}
	return (&platform{Options: Options{Config: c}, instance: instance}).networkConfig()
}

func checkAPI(c Config) Check {
	k := Check{Name: "port " + c.API, Required: true, OK: true, Detail: "free for the Machines API"}
	l, err := net.Listen("tcp", c.API)
	if err != nil {
		k.OK, k.Detail, k.Remedy = false, err.Error(), "stop the program there (ss -ltnp shows it), or set another `api` in "+DefaultConfigFile
		return k
	}
	l.Close()
	return k
}

func checkCluster(c Config) Check {
	k := Check{Name: "ports of Kubernetes", Required: true, OK: true, Detail: "free on the addresses of the cluster"}
	if err := (&platform{Options: Options{Config: c}}).tryCluster(); err != nil {
		k.OK, k.Detail, k.Remedy = false, err.Error(), "gondola up --no-kubernetes does without"
	}
	return k
}

func checkRange(c Config) Check {
	k := Check{Name: "range " + c.Range, Required: true, OK: true, Detail: "free for Machines"}
	cfg, err := hostNetwork(c)
	if err == nil {
		err = network.CheckRange(cfg, netip.Prefix{})
	}
	if err != nil {
		k.OK, k.Detail, k.Remedy = false, err.Error(), "set another `range` in "+DefaultConfigFile
	}
	return k
}

func checkServices(c Config) Check {
	k := Check{Name: "range of Services", OK: true}
	cfg, err := hostNetwork(c)
	if err == nil {
		var number int
		if number, err = network.FreeServiceRange(cfg); err == nil {
			v4, _, _ := network.Plan{Range: cfg.Range}.ServiceRange(number)
			k.Detail = v4.String() + " is free for Kubernetes Services"
		}
	}
	if err != nil {
		k.OK, k.Detail = false, err.Error()
	}
	return k
}
