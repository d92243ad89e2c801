package translate

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"gondola"
)

// gatewayUse says what the Pod has of its node (docs/rfd/0008-node-gateway.md); nil if nothing.
func gatewayUse(pod *corev1.Pod, in Inputs) *gondola.GatewayUse {
	use := &gondola.GatewayUse{Name: in.Gateway, HostNetwork: pod.Spec.HostNetwork}
	if !use.HostNetwork { // else every port is the node's already, and the API server has written them all down as hostPorts
		use.Ports = hostPorts(pod)
	}
	paths := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil })
	if !use.HostNetwork && len(use.Ports) == 0 && !paths {
		return nil
	}
	return use
}

// hostPorts lists those of the containers that run side by side: sidecars and the others.
func hostPorts(pod *corev1.Pod) (out []gondola.HostPort) {
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			hp := gondola.HostPort{HostPort: uint16(p.HostPort), Port: uint16(p.ContainerPort), Protocol: strings.ToLower(string(p.Protocol))}
			if a, err := netip.ParseAddr(p.HostIP); err == nil && !(a.IsUnspecified() && a.Is4()) { // 0.0.0.0 is what an empty one means
				hp.HostIP = a
			}
			out = append(out, hp)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// nodePath translates a hostPath.
func nodePath(h *corev1.HostPathVolumeSource) *gondola.TempVolumeExtension {
	out := &gondola.TempVolumeExtension{Path: path.Clean("/" + h.Path)}
	if h.Type != nil {
		out.Type = pathTypes[*h.Type]
	}
	return out
}

var pathTypes = map[corev1.HostPathType]string{
	corev1.HostPathUnset: "", corev1.HostPathDirectory: gondola.PathDirectory, corev1.HostPathDirectoryOrCreate: gondola.PathDirectoryOrCreate,
	corev1.HostPathFile: gondola.PathFile, corev1.HostPathFileOrCreate: gondola.PathFileOrCreate,
}

const noGateway = "the platform has no gateway that stands for the node"

func (r *refusals) hostNetwork(s *corev1.PodSpec) {
	if !s.HostNetwork {
		return
	}
	r.because(!r.gateway, "spec.hostNetwork", noGateway+": use a Service of type LoadBalancer or NodePort to be reached from outside")
	if c := s.SecurityContext; c != nil {
		for _, sysctl := range c.Sysctls {
			r.because(strings.HasPrefix(sysctl.Name, "net."), "spec.securityContext.sysctls "+sysctl.Name+" with hostNetwork", "the network is shared with other Pods")
		}
	}
}

func (r *refusals) hostPort(at string, p corev1.ContainerPort) {
	const kubelet = 10250
	at += ".hostPort"
	if p.HostPort == 0 {
		return
	}
	r.because(!r.gateway, at, noGateway+": use a Service of type LoadBalancer or NodePort")
	r.because(p.Protocol == corev1.ProtocolSCTP, at+" with protocol SCTP", "use TCP or UDP")
	r.because(p.HostPort == kubelet && p.Protocol != corev1.ProtocolUDP, fmt.Sprintf("%s %d", at, kubelet), "the kubelet API has it")
}

func (r *refusals) hostPath(at string, h *corev1.HostPathVolumeSource) {
	at += ".hostPath"
	r.because(!r.gateway, at, noGateway+": use emptyDir, configMap or a persistentVolumeClaim")
	if h.Type != nil {
		_, known := pathTypes[*h.Type]
		r.because(!known, at+".type "+string(*h.Type), "a virtual node has no devices, and no programs whose sockets there could be: mount the directory of a Pod's socket")
	}
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		clean := path.Clean("/" + h.Path)
		r.because(clean == kernel || strings.HasPrefix(clean, kernel+"/"), at+".path "+h.Path, "a virtual node has no kernel and no devices of its own to show")
	}
}
