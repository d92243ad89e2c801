package provider

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"gondola"
)

// healthServers answer load balancers that ask at a Service's healthCheckNodePort whether this host has endpoints of it, as kube-proxy does.
type healthServers struct {
	log    *slog.Logger
	listen []func(address string) (net.Listener, error) // the host, and nodes that have a network of their own

	mu      sync.Mutex
	ports   map[int32]health
	servers map[int32]*http.Server
}

// health is what one port says.
type health struct {
	namespace, name string
	endpoints       int
}

func newHealthServers(log *slog.Logger, nodes []Node) *healthServers {
	listen := []func(address string) (net.Listener, error){listenHere}
	for _, n := range nodes {
		if n.Listen != nil {
			listen = append(listen, n.Listen)
		}
	}
	return &healthServers{log: log, listen: listen, ports: map[int32]health{}, servers: map[int32]*http.Server{}}
}

// healthPorts lists what the Services with a healthCheckNodePort say.
func healthPorts(list []*corev1.Service, set []gondola.VirtualService) map[int32]health {
	out := map[int32]health{}
	endpoints := map[string]int{}
	for _, vs := range set {
		for _, p := range vs.Ports {
			four := 0
			for _, b := range p.Backends {
				if b.Addr().Is4() {
					four++
				}
			}
			endpoints[vs.Name] = max(endpoints[vs.Name], four, len(p.Backends)-four) // one endpoint may have an address of each family
		}
	}
	for _, svc := range list {
		if p := svc.Spec.HealthCheckNodePort; p != 0 && svc.DeletionTimestamp == nil {
			out[p] = health{svc.Namespace, svc.Name, endpoints[key(svc)]}
		}
	}
	return out
}

// set makes these the ports that are served. One that cannot be listened on is tried again with the next change.
func (h *healthServers) set(ports map[int32]health) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ports = ports
	for p, s := range h.servers {
		if _, ok := ports[p]; !ok {
			_ = s.Close()
			delete(h.servers, p)
		}
	}
	for p := range ports {
		if h.servers[p] != nil {
			continue
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { h.answer(w, p) }), ReadHeaderTimeout: 5 * time.Second}
		for _, listen := range h.listen {
			l, err := listen(fmt.Sprintf(":%d", p))
			if err != nil {
				h.log.Warn("health check port of a Service cannot be served", "service", ports[p].namespace+"/"+ports[p].name, "port", p, "err", err)
				continue
			}
			h.servers[p] = s
			go func() { _ = s.Serve(l) }()
		}
	}
}

func (h *healthServers) close() { h.set(nil) }

func (h *healthServers) answer(w http.ResponseWriter, port int32) {
	h.mu.Lock()
	state := h.ports[port]
	h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if state.endpoints == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service": map[string]string{"namespace": state.namespace, "name": state.name}, "localEndpoints": state.endpoints, "serviceProxyHealthy": true})
}
