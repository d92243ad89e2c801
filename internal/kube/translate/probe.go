package translate

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"gondola"
)

// healthchecks translates the container's probes.
func healthchecks(c *corev1.Container) []gondola.Healthcheck {
	var out []gondola.Healthcheck
	if p := c.StartupProbe; p != nil {
		h := healthcheck("startup", "liveness", p, c)
		if h.Gondola == nil {
			h.Gondola = &gondola.HealthcheckExtension{}
		}
		h.Gondola.Startup, h.Unhealthy = true, "stop"
		out = append(out, h)
	}
	if p := c.LivenessProbe; p != nil {
		h := healthcheck("liveness", "liveness", p, c)
		h.Unhealthy = "stop"
		out = append(out, h)
	}
	if p := c.ReadinessProbe; p != nil {
		out = append(out, healthcheck("readiness", "readiness", p, c))
	}
	return out
}

func healthcheck(name, kind string, p *corev1.Probe, c *corev1.Container) gondola.Healthcheck {
	h := gondola.Healthcheck{
		Name: name, Kind: kind, Interval: int(p.PeriodSeconds), GracePeriod: int(p.InitialDelaySeconds), Timeout: int(p.TimeoutSeconds),
		SuccessThreshold: int(p.SuccessThreshold), FailureThreshold: int(p.FailureThreshold),
	}
	var ext gondola.HealthcheckExtension
	switch {
	case p.HTTPGet != nil:
		h.HTTP, ext.Host = httpProbe(p.HTTPGet, c), p.HTTPGet.Host
	case p.TCPSocket != nil:
		h.TCP, ext.Host = &gondola.TCPProbe{Port: port(p.TCPSocket.Port, c)}, p.TCPSocket.Host
	case p.Exec != nil:
		h.Exec = &gondola.ExecProbe{Command: probeCommand(p.Exec.Command, c.Env)}
	case p.GRPC != nil:
		ext.GRPC = &gondola.GRPCProbe{Port: int(p.GRPC.Port)}
		if p.GRPC.Service != nil {
			ext.GRPC.Service = *p.GRPC.Service
		}
	}
	ext.GraceSeconds = p.TerminationGracePeriodSeconds
	if ext != (gondola.HealthcheckExtension{}) {
		h.Gondola = &ext
	}
	return h
}

// probeCommand replaces references as a kubelet does in the command of a probe: only what stands in the Pod itself is known, as it stands there,
// and a value from elsewhere is empty.
func probeCommand(command []string, env []corev1.EnvVar) (out []string) {
	known := map[string]string{}
	for _, v := range env {
		known[v.Name] = v.Value
	}
	for _, arg := range command {
		out = append(out, expansion.Expand(arg, expansion.MappingFuncFor(known)))
	}
	return out
}

func httpProbe(a *corev1.HTTPGetAction, c *corev1.Container) *gondola.HTTPProbe {
	out := &gondola.HTTPProbe{Port: port(a.Port, c), Path: a.Path, Scheme: strings.ToLower(string(a.Scheme))}
	if out.Path != "" && !strings.HasPrefix(out.Path, "/") {
		out.Path = "/" + out.Path
	}
	if out.Scheme == "https" {
		out.TLSSkipVerify = ptr(true)
	}
	for _, h := range a.HTTPHeaders { // the same name may come several times
		if n := len(out.Headers); n > 0 && out.Headers[n-1].Name == h.Name {
			out.Headers[n-1].Values = append(out.Headers[n-1].Values, h.Value)
			continue
		}
		out.Headers = append(out.Headers, gondola.HTTPHeader{Name: h.Name, Values: []string{h.Value}})
	}
	return out
}

func hook(h *corev1.LifecycleHandler, c *corev1.Container) *gondola.Hook {
	switch {
	case h == nil:
		return nil
	case h.Exec != nil:
		return &gondola.Hook{Exec: h.Exec.Command}
	case h.HTTPGet != nil:
		return &gondola.Hook{HTTP: httpProbe(h.HTTPGet, c), Host: h.HTTPGet.Host}
	case h.Sleep != nil:
		return &gondola.Hook{SleepSeconds: h.Sleep.Seconds}
	}
	return nil // tcpSocket hooks never did anything in Kubernetes; Unsupported names them
}

// port resolves a port by number or by the name of one of the container's ports; 0 where there is no such name.
func port(p intstr.IntOrString, c *corev1.Container) int {
	if p.Type == intstr.Int {
		return p.IntValue()
	}
	for _, cp := range c.Ports {
		if cp.Name == p.StrVal {
			return int(cp.ContainerPort)
		}
	}
	return p.IntValue() // a number in a string
}
