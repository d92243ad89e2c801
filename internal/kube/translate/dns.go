package translate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"gondola"
)

// dnsConfig says how the Machine resolves names and what it is called.
func dnsConfig(pod *corev1.Pod, in Inputs) *gondola.DNSConfig {
	d := &gondola.DNSConfig{SkipRegistration: true}
	d.Hostname, d.HostnameFQDN = hostname(pod, in.Domain)
	switch pod.Spec.DNSPolicy {
	case corev1.DNSNone, corev1.DNSDefault:
	default: // ClusterFirst, which with a host network means Default, and ClusterFirstWithHostNet
		if len(in.DNS) == 0 || pod.Spec.HostNetwork && pod.Spec.DNSPolicy != corev1.DNSClusterFirstWithHostNet {
			break
		}
		for _, a := range in.DNS {
			d.Nameservers = append(d.Nameservers, a.String())
		}
		d.Searches = []string{pod.Namespace + ".svc." + in.Domain, "svc." + in.Domain, in.Domain}
		d.Options = []gondola.DNSOption{{Name: "ndots", Value: "5"}}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		d.Nameservers = appendNew(d.Nameservers, c.Nameservers)
		d.Searches = appendNew(d.Searches, c.Searches)
		for _, o := range c.Options {
			d.Options = slices.DeleteFunc(d.Options, func(old gondola.DNSOption) bool { return old.Name == o.Name })
			opt := gondola.DNSOption{Name: o.Name}
			if o.Value != nil {
				opt.Value = *o.Value
			}
			d.Options = append(d.Options, opt)
		}
	}
	return d
}

// hostname returns the Machine's hostname and, with a subdomain, its full name.
func hostname(pod *corev1.Pod, domain string) (name, fqdn string) {
	if o := pod.Spec.HostnameOverride; o != nil {
		return cut(*o), ""
	}
	if pod.Spec.HostNetwork {
		return cut(pod.Spec.NodeName), ""
	}
	name = pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	name = cut(name)
	if pod.Spec.Subdomain != "" {
		fqdn = name + "." + pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + domain
	}
	if fqdn != "" && isTrue(pod.Spec.SetHostnameAsFQDN) {
		return fqdn, fqdn
	}
	return name, fqdn
}

// cut shortens a name to the 63 characters that a hostname may have.
func cut(name string) string {
	if len(name) <= 63 {
		return name
	}
	return strings.TrimRight(name[:63], "-.")
}

func appendNew(list, more []string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
