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

// sandboxed says whether the system calls of a driver's Pods end in a kernel of their own: what would guard the host's kernel then has nothing
// to guard.
func sandboxed(driver string) bool { return driver == "gvisor" }

// Unsupported lists the fields of the Pod that cannot be carried out, each as a sentence that begins with its path and ends, where there is
// one, with the way out; none: nil. driver is that of its RuntimeClass, or the platform's default; empty if its class is not known; gateway is as in Inputs. docs/pods.md has the whole table, accepted fields that have no effect included.
func Unsupported(pod *corev1.Pod, driver, gateway string) []string {
	r := &refusals{sandboxed: sandboxed(driver), gateway: gateway != ""}
	s := &pod.Spec
	const own = "a Pod is a Machine of its own and shares nothing of its host"
	r.hostNetwork(s)
	r.because(s.HostPID, "spec.hostPID", own)
	r.because(s.HostIPC, "spec.hostIPC", own)
	r.because(s.HostUsers != nil && !*s.HostUsers && !r.sandboxed, "spec.hostUsers=false", "use runtimeClassName gvisor, where root is never the host's")
	r.because(len(s.ResourceClaims) > 0, "spec.resourceClaims", "there are no devices to claim")
	r.because(s.SchedulingGroup != nil, "spec.schedulingGroup", "Pods are scheduled one by one")
	r.because(s.OS != nil && s.OS.Name != corev1.Linux, "spec.os.name other than linux", "Machines run Linux")
	if c := s.RuntimeClassName; c != nil && *c != "" && driver == "" {
		r.add("spec.runtimeClassName %q is not supported: no driver goes by its handler", *c)
	}
	r.podSecurity(s.SecurityContext)
	for i, v := range s.Volumes {
		r.volume(fmt.Sprintf("spec.volumes[%d]", i), v)
	}
	for i := range s.InitContainers {
		r.container(fmt.Sprintf("spec.initContainers[%d]", i), &s.InitContainers[i], s.Volumes)
	}
	for i := range s.Containers {
		r.container(fmt.Sprintf("spec.containers[%d]", i), &s.Containers[i], s.Volumes)
	}
	return r.list
}

// UnsupportedEphemeral is Unsupported for one ephemeral container of the Pod.
func UnsupportedEphemeral(pod *corev1.Pod, i int, driver string) []string {
	r := &refusals{sandboxed: sandboxed(driver)}
	c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
	r.container(fmt.Sprintf("spec.ephemeralContainers[%d]", i), &c, pod.Spec.Volumes)
	return r.list
}

type refusals struct {
	sandboxed bool
	gateway   bool // there is one
	list      []string
}

func (r *refusals) add(format string, args ...any) {
	r.list = append(r.list, fmt.Sprintf(format, args...))
}

func (r *refusals) when(is bool, what string) {
	if is {
		r.add("%s is not supported yet", what)
	}
}

// because refuses with the reason or the way out.
func (r *refusals) because(is bool, what, why string) {
	if is {
		r.add("%s is not supported: %s", what, why)
	}
}

func (r *refusals) podSecurity(c *corev1.PodSecurityContext) {
	if c == nil {
		return
	}
	const at = "spec.securityContext"
	r.because(len(c.Sysctls) > 0 && r.sandboxed, at+".sysctls", "the sandbox's kernel has almost none; leave them out, let the program set what it needs, or use a runtimeClassName of runc")
	if err := gondola.CheckSysctls(sysctls(c)); err != nil && !r.sandboxed {
		r.add("%s.sysctls: %v", at, err)
	}
	r.because(c.WindowsOptions != nil, at+".windowsOptions", "Machines run Linux")
	r.profiles(at, c.SELinuxOptions, c.SeccompProfile, c.AppArmorProfile)
}

// profiles refuses what names something of a host, and, without a sandbox, what would have to be set on it. In a sandbox the system calls of
// a container never reach the host's kernel, which is what profiles are for.
func (r *refusals) profiles(at string, selinux *corev1.SELinuxOptions, seccomp *corev1.SeccompProfile, armor *corev1.AppArmorProfile) {
	const file = "a Machine's host has no profiles of yours: use RuntimeDefault"
	const sandbox = "use runtimeClassName gvisor, where the sandbox stands in for it"
	r.because(seccomp != nil && seccomp.Type == corev1.SeccompProfileTypeLocalhost, at+".seccompProfile Localhost", file)
	r.because(armor != nil && armor.Type == corev1.AppArmorProfileTypeLocalhost, at+".appArmorProfile Localhost", file)
	r.because(selinux != nil && !r.sandboxed, at+".seLinuxOptions", sandbox)
	r.because(armor != nil && armor.Type == corev1.AppArmorProfileTypeRuntimeDefault && !r.sandboxed, at+".appArmorProfile RuntimeDefault", sandbox)
}

// volume refuses sources other than those that Payload and volumes know, by the name they have in the API.
func (r *refusals) volume(at string, v corev1.Volume) {
	s := v.VolumeSource
	switch {
	case s.EmptyDir != nil:
		r.because(strings.HasPrefix(string(s.EmptyDir.Medium), string(corev1.StorageMediumHugePages)), at+".emptyDir.medium "+string(s.EmptyDir.Medium), "use Memory")
	case s.ConfigMap != nil, s.Secret != nil, s.DownwardAPI != nil, s.PersistentVolumeClaim != nil, s.Ephemeral != nil, s.Image != nil:
	case s.Projected != nil:
		for i, p := range s.Projected.Sources {
			r.when(p.ClusterTrustBundle != nil, fmt.Sprintf("%s.projected.sources[%d].clusterTrustBundle", at, i))
			r.when(p.PodCertificate != nil, fmt.Sprintf("%s.projected.sources[%d].podCertificate", at, i))
		}
	case s.HostPath != nil:
		r.hostPath(at, s.HostPath)
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

func (r *refusals) container(at string, c *corev1.Container, volumes []corev1.Volume) {
	r.when(len(c.VolumeDevices) > 0, at+".volumeDevices")
	for i, rule := range c.RestartPolicyRules {
		r.when(rule.Action != corev1.ContainerRestartRuleActionRestart, fmt.Sprintf("%s.restartPolicyRules[%d].action %s", at, i, rule.Action))
	}
	r.because(len(c.Resources.Claims) > 0, at+".resources.claims", "there are no devices to claim")
	for i, p := range c.Ports {
		r.hostPort(fmt.Sprintf("%s.ports[%d]", at, i), p)
	}
	for i, e := range c.Env {
		if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
			continue
		}
		name := e.ValueFrom.FileKeyRef.VolumeName
		inMemory := slices.ContainsFunc(volumes, func(v corev1.Volume) bool {
			return v.Name == name && v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory
		})
		r.because(inMemory, fmt.Sprintf("%s.env[%d].valueFrom.fileKeyRef to an emptyDir in memory", at, i), "leave out the medium of volume "+name)
	}
	for i, m := range c.VolumeMounts {
		r.because(m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional,
			fmt.Sprintf("%s.volumeMounts[%d].mountPropagation Bidirectional", at, i), "mounts never leave the Machine")
	}
	r.probe(at+".startupProbe", c.StartupProbe, c)
	r.probe(at+".livenessProbe", c.LivenessProbe, c)
	r.probe(at+".readinessProbe", c.ReadinessProbe, c)
	if l := c.Lifecycle; l != nil {
		r.hook(at+".lifecycle.postStart", l.PostStart)
		r.hook(at+".lifecycle.preStop", l.PreStop)
		if l.StopSignal != nil {
			_, err := gondola.ParseSignal(string(*l.StopSignal))
			r.because(err != nil, at+".lifecycle.stopSignal "+string(*l.StopSignal), "use a name such as SIGTERM")
		}
	}
	if s := c.SecurityContext; s != nil {
		at += ".securityContext"
		r.because(isTrue(s.Privileged) && !r.sandboxed, at+".privileged", "it would be root on the host; use runtimeClassName gvisor, where it has every capability of the sandbox, or add single capabilities")
		r.because(s.WindowsOptions != nil, at+".windowsOptions", "Machines run Linux")
		r.because(s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount && !r.sandboxed, at+".procMount Unmasked", "use runtimeClassName gvisor, whose /proc is the sandbox's own")
		r.profiles(at, s.SELinuxOptions, s.SeccompProfile, s.AppArmorProfile)
	}
}

func (r *refusals) probe(at string, p *corev1.Probe, c *corev1.Container) {
	if p == nil {
		return
	}
	if h := p.HTTPGet; h != nil && port(h.Port, c) == 0 {
		r.add("%s.httpGet.port %q is not the name of a port of container %s", at, h.Port.String(), c.Name)
	}
	if t := p.TCPSocket; t != nil && port(t.Port, c) == 0 {
		r.add("%s.tcpSocket.port %q is not the name of a port of container %s", at, t.Port.String(), c.Name)
	}
}

func (r *refusals) hook(at string, h *corev1.LifecycleHandler) {
	r.because(h != nil && h.TCPSocket != nil, at+".tcpSocket", "it never did anything in Kubernetes; use exec or httpGet")
}
