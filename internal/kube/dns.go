package kube

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind" // the plugins that corefile names
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	"k8s.io/klog/v2"
)

// corefile is CoreDNS's configuration: what kubeadm gives a cluster, bound to the cluster's own addresses.
func corefile(cfg *Config, kubeconfig string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".:%d {\n\tbind %s", cfg.DNSPort, cfg.Address)
	if cfg.AddressV6.IsValid() {
		fmt.Fprintf(&b, " %s", cfg.AddressV6)
	}
	fmt.Fprintf(&b, `
	errors
	kubernetes %[1]s in-addr.arpa ip6.arpa {
		kubeconfig %[2]q
		pods insecure
		fallthrough in-addr.arpa ip6.arpa
		ttl 5
	}
`, cfg.Domain, kubeconfig)
	if len(cfg.Upstream) > 0 {
		fmt.Fprintf(&b, "\tforward . %s {\n\t\tmax_concurrent 1000\n\t}\n", strings.Join(cfg.Upstream, " "))
	}
	// Answers about the cluster are never cached, nor those to whom an address belongs: a new Service is there at once, a removed one gone at once.
	fmt.Fprintf(&b, "\tcache 30 {\n\t\tdisable success %[1]s in-addr.arpa ip6.arpa\n\t\tdisable denial %[1]s in-addr.arpa ip6.arpa\n\t}\n\tloadbalance\n}\n", cfg.Domain)
	return b.String()
}

// startDNS serves cluster DNS until stop is called. The API server must answer CoreDNS's identity by now.
func startDNS(cfg *Config, kubeconfig string) (stop func(), err error) {
	dnsserver.Directives = []string{"bind", "errors", "cache", "loadbalance", "kubernetes", "forward"} // order of the chain
	caddy.Quiet, dnsserver.Quiet = true, true
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", ServerTypeName: "dns", Contents: []byte(corefile(cfg, kubeconfig))})
	klog.ClearLogger() // CoreDNS's kubernetes plugin has taken klog for the whole process
	stop = func() {
		instance.ShutdownCallbacks()
		instance.Stop()
	}
	if err != nil {
		stop() // its plugins have started, and their watches would keep the API server from ending
		return nil, fmt.Errorf("cluster DNS on %s: %w", netip.AddrPortFrom(cfg.Address, uint16(cfg.DNSPort)), err)
	}
	return stop, nil
}

// hostResolvers returns the name servers of a resolv.conf, without those of our own; none is no error.
func hostResolvers(path string, own ...netip.Addr) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if err != nil || slices.Contains(own, a) {
			continue // asking ourselves would be a loop
		}
		out = append(out, net.JoinHostPort(a.String(), "53"))
	}
	return out
}
