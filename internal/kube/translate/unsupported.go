package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"gondola"
)

// RuntimeClasses are the names of RuntimeClasses that a Pod may ask for: the drivers.
func RuntimeClasses() []string { return []string{"gvisor"} }

// Unsupported lists the fields of the Pod that cannot be carried out, each as a sentence that begins with its path; none: nil.
//
// Accepted without effect, because the sandbox already gives what they ask for or nothing: seccomp and AppArmor profiles, ports without
// hostPort, mountPropagation None, requests of ephemeral storage and of extended resources (they count for the scheduler alone).
func Unsupported(pod *corev1.Pod) []string {
	r := &refusals{}
	s := &pod.Spec
	r.when(s.HostNetwork, "spec.hostNetwork")
	r.when(s.HostPID, "spec.hostPID")
	r.when(s.HostIPC, "spec.hostIPC")
	r.when(s.HostUsers != nil && !*s.HostUsers, "spec.hostUsers=false")
	r.when(len(s.ResourceClaims) > 0, "spec.resourceClaims")
	r.when(s.SchedulingGroup != nil, "spec.schedulingGroup")
	r.when(s.OS != nil && s.OS.Name != corev1.Linux, "spec.os.name other than linux")
	if c := s.RuntimeClassName; c != nil && *c != "" && !slices.Contains(RuntimeClasses(), *c) {
		r.add("spec.runtimeClassName %q is not supported: use one of %s, or none", *c, strings.Join(RuntimeClasses(), ", "))
	}
	if c := s.SecurityContext; c != nil {
		r.when(len(c.Sysctls) > 0, "spec.securityContext.sysctls")
		r.when(c.SELinuxOptions != nil, "spec.securityContext.seLinuxOptions")
		r.when(c.WindowsOptions != nil, "spec.securityContext.windowsOptions")
		r.when(c.SupplementalGroupsPolicy != nil && *c.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict,
			"spec.securityContext.supplementalGroupsPolicy Strict")
	}
	for i, v := range s.Volumes {
		r.volume(fmt.Sprintf("spec.volumes[%d]", i), v)
	}
	for i := range s.InitContainers {
		at := fmt.Sprintf("spec.initContainers[%d]", i)
		c := &s.InitContainers[i]
		r.when(c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways, at+".restartPolicy Always (a sidecar)")
		r.container(at, c)
	}
	for i := range s.Containers {
		r.container(fmt.Sprintf("spec.containers[%d]", i), &s.Containers[i])
	}
	return r.list
}

type refusals struct{ list []string }

func (r *refusals) add(format string, args ...any) {
	r.list = append(r.list, fmt.Sprintf(format, args...))
}

func (r *refusals) when(is bool, what string) {
	if is {
		r.add("%s is not supported yet", what)
	}
}

// volume refuses sources other than those that Payload and volumes know, by the name they have in the API.
func (r *refusals) volume(at string, v corev1.Volume) {
	s := v.VolumeSource
	switch {
	case s.EmptyDir != nil:
		r.when(strings.HasPrefix(string(s.EmptyDir.Medium), string(corev1.StorageMediumHugePages)), at+".emptyDir.medium "+string(s.EmptyDir.Medium))
	case s.ConfigMap != nil, s.Secret != nil, s.DownwardAPI != nil:
	case s.Projected != nil:
		for i, p := range s.Projected.Sources {
			r.when(p.ClusterTrustBundle != nil, fmt.Sprintf("%s.projected.sources[%d].clusterTrustBundle", at, i))
			r.when(p.PodCertificate != nil, fmt.Sprintf("%s.projected.sources[%d].podCertificate", at, i))
		}
	default:
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
		if err != nil || len(fields) == 0 {
			r.add("%s has no source that is known", at)
			return
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			r.when(true, at+"."+name)
		}
	}
}

func (r *refusals) container(at string, c *corev1.Container) {
	r.when(len(c.VolumeDevices) > 0, at+".volumeDevices")
	r.when(len(c.RestartPolicyRules) > 0, at+".restartPolicyRules")
	r.when(len(c.Resources.Claims) > 0, at+".resources.claims")
	for i, p := range c.Ports {
		r.when(p.HostPort != 0, fmt.Sprintf("%s.ports[%d].hostPort", at, i))
	}
	for i, e := range c.Env {
		r.when(e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil, fmt.Sprintf("%s.env[%d].valueFrom.fileKeyRef", at, i))
	}
	for i, m := range c.VolumeMounts {
		r.when(m.SubPathExpr != "", fmt.Sprintf("%s.volumeMounts[%d].subPathExpr", at, i))
		r.when(m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone, fmt.Sprintf("%s.volumeMounts[%d].mountPropagation", at, i))
		r.when(m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled, fmt.Sprintf("%s.volumeMounts[%d].recursiveReadOnly Enabled", at, i))
	}
	r.probe(at+".startupProbe", c.StartupProbe, c)
	r.probe(at+".livenessProbe", c.LivenessProbe, c)
	r.probe(at+".readinessProbe", c.ReadinessProbe, c)
	if l := c.Lifecycle; l != nil {
		r.hook(at+".lifecycle.postStart", l.PostStart)
		r.hook(at+".lifecycle.preStop", l.PreStop)
		if l.StopSignal != nil {
			if _, err := gondola.ParseSignal(string(*l.StopSignal)); err != nil {
				r.when(true, at+".lifecycle.stopSignal "+string(*l.StopSignal))
			}
		}
	}
	if s := c.SecurityContext; s != nil {
		r.when(isTrue(s.Privileged), at+".securityContext.privileged")
		r.when(s.SELinuxOptions != nil, at+".securityContext.seLinuxOptions")
		r.when(s.WindowsOptions != nil, at+".securityContext.windowsOptions")
		r.when(s.ProcMount != nil && *s.ProcMount != corev1.DefaultProcMount, at+".securityContext.procMount "+fmt.Sprint(*orDefault(s.ProcMount)))
	}
}

func (r *refusals) probe(at string, p *corev1.Probe, c *corev1.Container) {
	if p == nil {
		return
	}
	r.when(p.GRPC != nil, at+".grpc")
	if h := p.HTTPGet; h != nil && port(h.Port, c) == 0 {
		r.add("%s.httpGet.port %q is not the name of a port of container %s", at, h.Port.String(), c.Name)
	}
	if t := p.TCPSocket; t != nil && port(t.Port, c) == 0 {
		r.add("%s.tcpSocket.port %q is not the name of a port of container %s", at, t.Port.String(), c.Name)
	}
}

func (r *refusals) hook(at string, h *corev1.LifecycleHandler) {
	r.when(h != nil && h.TCPSocket != nil, at+".tcpSocket")
}

func orDefault(p *corev1.ProcMountType) *corev1.ProcMountType {
	if p == nil {
		return ptr(corev1.DefaultProcMount)
	}
	return p
}
