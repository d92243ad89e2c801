package gondola

import (
	"net/netip"
	"path"
	"strings"
)

// GatewayUse is how a Machine has part in a gateway of its network: a network and a file system that stand for a node, on one host
// (docs/rfd/0008-node-gateway.md). A host without such a gateway does not take the Machine.
type GatewayUse struct {
	Name string `json:"name"`
	// HostNetwork puts the Machine into the gateway's network: it has no other, and its addresses are the gateway's.
	HostNetwork bool       `json:"host_network,omitempty"`
	Ports       []HostPort `json:"ports,omitempty"` // of the gateway, which lead to the Machine; none with HostNetwork
}

// HostPort is a port of a gateway.
type HostPort struct {
	HostIP   netip.Addr `json:"host_ip,omitzero"`   // which address; if zero, all of them and 127.0.0.1
	HostPort uint16     `json:"host_port"`          // of the gateway
	Port     uint16     `json:"port"`               // of the Machine
	Protocol string     `json:"protocol,omitempty"` // "tcp" or "udp"; if empty, tcp
}

// TempVolumeExtension is the "gondola" object of one of a Config's volumes: it makes it a path of the gateway's file system, or says how the
// image of one is pulled.
type TempVolumeExtension struct {
	Path string `json:"path,omitempty"` // absolute; empty for an image
	// Type is what has to be there: "directory", "file", or with "_or_create" an empty one if nothing is. If empty, whatever is there, or
	// else a new directory.
	Type string `json:"type,omitempty"`
	// PullPolicy is that of a volume's image, as a container's.
	PullPolicy string `json:"pull_policy,omitempty"`
}

// OnGateway says whether the volume is a path of the gateway's file system.
func (v *TempVolume) OnGateway() bool { return v.Gondola != nil && v.Image == "" }

// PullPolicy is "always", "if_not_present" or "never": how the volume's image is pulled.
func (v *TempVolume) PullPolicy() string {
	if v.Gondola == nil || v.Gondola.PullPolicy == "" {
		return "if_not_present"
	}
	return v.Gondola.PullPolicy
}

// Types of a path.
const (
	PathDirectory         = "directory"
	PathDirectoryOrCreate = "directory_or_create"
	PathFile              = "file"
	PathFileOrCreate      = "file_or_create"
)

// UsesGateway names the gateway that the Machine has part in; empty if none.
func (c *Config) UsesGateway() string {
	if c == nil || c.Gondola == nil || c.Gondola.Gateway == nil {
		return ""
	}
	return c.Gondola.Gateway.Name
}

// HostNetwork says whether the Machine is in the network of its gateway.
func (c *Config) HostNetwork() bool {
	return c.UsesGateway() != "" && c.Gondola.Gateway.HostNetwork
}

func (c *Config) validateGateway() error {
	for i, v := range c.Volumes {
		if !v.OnGateway() {
			continue
		}
		switch t := v.Gondola.Type; {
		case c.UsesGateway() == "":
			return Errorf(ErrInvalid, "config.volumes[%d].gondola.path: config.gondola.gateway must name whose path it is", i)
		case v.TempDir != nil:
			return Errorf(ErrInvalid, "config.volumes[%d]: use one of temp_dir and gondola.path", i)
		case v.Gondola.PullPolicy != "":
			return Errorf(ErrInvalid, "config.volumes[%d].gondola.pull_policy: only a volume with an image has one", i)
		case !path.IsAbs(v.Gondola.Path) || strings.ContainsRune(v.Gondola.Path, 0):
			return Errorf(ErrInvalid, "config.volumes[%d].gondola.path %q must be absolute", i, v.Gondola.Path)
		case t != "" && t != PathDirectory && t != PathDirectoryOrCreate && t != PathFile && t != PathFileOrCreate:
			return Errorf(ErrInvalid, "config.volumes[%d].gondola.type %q: use directory, file, or one of them with _or_create", i, t)
		}
	}
	if c.Gondola == nil || c.Gondola.Gateway == nil {
		return nil
	}
	const at = "config.gondola.gateway"
	g := c.Gondola.Gateway
	switch {
	case g.Name == "":
		return Errorf(ErrInvalid, "%s.name is missing", at)
	case g.HostNetwork && len(g.Ports) > 0:
		return Errorf(ErrInvalid, "%s.ports: with host_network every port of the machine is the gateway's already", at)
	}
	for _, k := range c.AllContainers() {
		if !g.HostNetwork || k.Gondola == nil || k.Gondola.Security == nil {
			continue
		}
		for name := range k.Gondola.Security.Sysctls {
			if strings.HasPrefix(name, "net.") {
				return Errorf(ErrInvalid, "container %s: security.sysctls %s: with %s.host_network the network is shared with others", k.Name, name, at)
			}
		}
	}
	for i, p := range g.Ports {
		switch {
		case p.HostPort == 0 || p.Port == 0:
			return Errorf(ErrInvalid, "%s.ports[%d]: host_port and port must be 1 to 65535", at, i)
		case p.Protocol != "" && p.Protocol != "tcp" && p.Protocol != "udp":
			return Errorf(ErrInvalid, "%s.ports[%d].protocol %q: use tcp or udp", at, i, p.Protocol)
		}
	}
	return nil
}
