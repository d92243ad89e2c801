package translate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"gondola"
)

// security merges the Pod's and the container's security contexts. Profiles of seccomp and AppArmor are not passed on: the sandbox, not the
// host's kernel, is what a container's system calls reach. A privileged container has every capability of the sandbox's own kernel, and
// nothing of the host.
func security(pod *corev1.Pod, c *corev1.Container) *gondola.Security {
	var s gondola.Security
	if p := pod.Spec.SecurityContext; p != nil {
		s.Sysctls = sysctls(p) // every container of the Pod sets them, to the same
		s.User, s.Group, s.NonRoot = p.RunAsUser, p.RunAsGroup, isTrue(p.RunAsNonRoot)
		s.Groups = slices.Clone(p.SupplementalGroups)
		s.StrictGroups = p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
		if p.FSGroup != nil && !slices.Contains(s.Groups, *p.FSGroup) {
			s.Groups = append(s.Groups, *p.FSGroup)
		}
	}
	if k := c.SecurityContext; k != nil {
		if k.RunAsUser != nil {
			s.User = k.RunAsUser
		}
		if k.RunAsGroup != nil {
			s.Group = k.RunAsGroup
		}
		if k.RunAsNonRoot != nil {
			s.NonRoot = *k.RunAsNonRoot
		}
		s.ReadOnlyRootfs = isTrue(k.ReadOnlyRootFilesystem)
		s.NoNewPrivileges = k.AllowPrivilegeEscalation != nil && !*k.AllowPrivilegeEscalation
		if caps := k.Capabilities; caps != nil {
			s.AddCapabilities, s.DropCapabilities = capabilities(caps.Add), capabilities(caps.Drop)
		}
		if isTrue(k.Privileged) {
			s.AddCapabilities, s.DropCapabilities = []string{"ALL"}, nil
		}
	}
	if s.User == nil && s.Group == nil && s.Groups == nil && !s.StrictGroups && !s.NonRoot && !s.ReadOnlyRootfs && !s.NoNewPrivileges &&
		s.AddCapabilities == nil && s.DropCapabilities == nil && s.Sysctls == nil {
		return nil
	}
	return &s
}

// sysctls returns the Pod's settings of the kernel, with dots in their names.
func sysctls(p *corev1.PodSecurityContext) map[string]string {
	var out map[string]string
	for _, s := range p.Sysctls {
		if out == nil {
			out = map[string]string{}
		}
		out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return out
}

func capabilities(list []corev1.Capability) []string {
	var out []string
	for _, c := range list {
		out = append(out, strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_"))
	}
	return out
}
