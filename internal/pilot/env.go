package pilot

import (
	"net/netip"
	"slices"
	"strings"

	"gondola"
)

// defaultPath is the PATH of a container whose image has none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command returns the final arguments and environment of a container, and the variables that references may name: not what only the image
// has. secrets are the values of its secret variables; the result may hold them.
func command(spec *Spec, c *Container, secrets map[string]string) (args, env []string, known map[string]string, err error) {
	ext := c.Config.Gondola
	if ext == nil {
		ext = &gondola.ContainerExtension{}
	}
	for _, kv := range c.Env {
		env = setEnv(env, kv)
	}
	known = map[string]string{}
	for name, value := range c.Config.Env {
		known[name] = value
	}
	for _, v := range ext.Env {
		value := v.Value
		switch {
		case v.Secret:
			var ok bool
			value, ok = secrets[v.Name]
			if !ok && v.Optional {
				continue
			}
			if !ok {
				return nil, nil, nil, gondola.Errorf(gondola.ErrPrecondition, "the value of variable %s of container %s is not in the payload", v.Name, c.Name)
			}
		case v.Field != "":
			if value, err = field(spec, v.Field); err != nil {
				return nil, nil, nil, err
			}
		case v.File != nil:
			var found bool
			if value, found, err = fromFile(spec, v.File); err != nil {
				return nil, nil, nil, err
			}
			if !found && v.File.Optional {
				continue
			}
			if !found {
				return nil, nil, nil, gondola.Errorf(gondola.ErrPrecondition, "environment variable key %q not found in file %q of volume %s", v.File.Key, v.File.Path, v.File.Volume)
			}
		case ext.Expand:
			value = expand(value, known)
		}
		known[v.Name] = value
		env = setEnv(env, v.Name+"="+value)
	}
	args = c.Args
	if ext.Expand {
		args = make([]string, len(c.Args))
		for i, a := range c.Args {
			args[i] = expand(a, known)
		}
	}
	if spec.Hostname != "" {
		env = defaultEnv(env, "HOSTNAME="+spec.Hostname)
	}
	if ext.TTY {
		env = defaultEnv(env, "TERM=xterm")
	}
	return args, defaultEnv(env, defaultPath), known, nil
}

// field is a fact about the Machine that only its host knows.
func field(spec *Spec, name string) (string, error) {
	join := func(addrs []netip.Addr, most int) string {
		var s []string
		for _, a := range addrs[:min(most, len(addrs))] {
			s = append(s, a.String())
		}
		return strings.Join(s, ",")
	}
	switch name {
	case "pod_ip":
		return join(spec.Addresses, 1), nil
	case "pod_ips":
		return join(spec.Addresses, len(spec.Addresses)), nil
	case "host_ip":
		return join(spec.HostIPs, 1), nil
	case "host_ips":
		return join(spec.HostIPs, len(spec.HostIPs)), nil
	}
	return "", gondola.Errorf(gondola.ErrInvalid, "field %q of an environment variable: use pod_ip, pod_ips, host_ip or host_ips", name)
}

// setEnv sets a variable in place of an earlier one of its name, or behind the others.
func setEnv(env []string, kv string) []string {
	name, _, _ := strings.Cut(kv, "=")
	if i := slices.IndexFunc(env, func(s string) bool { return strings.HasPrefix(s, name+"=") }); i >= 0 {
		env[i] = kv
		return env
	}
	return append(env, kv)
}

// defaultEnv sets a variable unless it is set.
func defaultEnv(env []string, kv string) []string {
	name, _, _ := strings.Cut(kv, "=")
	if slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
		return env
	}
	return append(env, kv)
}

// expand replaces $(NAME) by the value of a known name, as Kubernetes does in args and values: $$ is a literal $, so $$(NAME) stays
// $(NAME); an unknown name, and anything else behind a $, stays as it is.
func expand(s string, known map[string]string) string {
	return expandFunc(s, func(name string) (string, bool) { value, ok := known[name]; return value, ok })
}

func expandFunc(s string, known func(name string) (string, bool)) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+end]
			if value, ok := known(name); ok {
				out.WriteString(value)
			} else {
				out.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			out.WriteString(s[i : i+2])
			i++
		}
	}
	return out.String()
}
