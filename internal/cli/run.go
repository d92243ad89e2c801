package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gondola"
)

func (e *env) machineRun() *cobra.Command {
	var app, name, region, size, restart, config, driver string
	var vars, meta, mounts, ports []string
	var cpus, memory int
	var detach, create bool
	cmd := &cobra.Command{
		Use:   "run IMAGE [COMMAND...]",
		Short: "Run an image as a Machine",
		Example: "  gondola machine run gondola.local/hello\n  gondola machine run --app web --region fra --size shared-cpu-2x nginx\n" +
			"  gondola machine run --restart no gondola.local/hello /bin/sh -c 'echo hi'",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 && config == "" {
				return usageError{fmt.Errorf("machine run wants an image, such as gondola.local/hello")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req := gondola.CreateRequest{Name: name, Region: region, SkipLaunch: create}
			if config != "" {
				b, err := os.ReadFile(config)
				if err != nil {
					return err
				}
				if err := json.Unmarshal(b, &req.Config); err != nil {
					return fmt.Errorf("%s is not a machine config: %w", config, err)
				}
			}
			if len(args) > 0 {
				req.Config.Image = args[0]
				req.Config.Init.Cmd = args[1:]
			}
			if size != "" || cpus > 0 || memory > 0 {
				g, ok := gondola.GuestPreset(size)
				if size != "" && !ok {
					return gondola.Errorf(gondola.ErrInvalid, "size %q is not known: use shared-cpu-1x … performance-16x", size)
				}
				if cpus > 0 {
					g.CPUs = cpus
				}
				if memory > 0 {
					g.MemoryMB = memory
				}
				req.Config.Guest = &g
			}
			if driver != "" {
				if req.Config.Gondola == nil {
					req.Config.Gondola = &gondola.ConfigExtension{}
				}
				req.Config.Gondola.Driver = driver
			}
			if restart != "" {
				req.Config.Restart = &gondola.RestartPolicy{Policy: restart}
			}
			if err := pairs(vars, "--env", &req.Config.Env); err != nil {
				return err
			}
			if err := volumeMounts(mounts, &req.Config.Mounts); err != nil {
				return err
			}
			if err := pairs(meta, "--metadata", &req.Config.Metadata); err != nil {
				return err
			}
			for _, p := range ports {
				s, err := service(p)
				if err != nil {
					return err
				}
				req.Config.Services = append(req.Config.Services, s)
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if err := ensureApp(ctx, c, app); err != nil {
				return err
			}
			m, err := c.Create(ctx, gondola.AppName(app), req)
			if err != nil {
				return err
			}
			ref := gondola.Ref{App: gondola.AppName(app), ID: m.ID}
			if !detach && !create {
				if err := e.settle(ctx, c, ref, gondola.WaitRequest{States: []gondola.State{gondola.Started, gondola.Stopped}}); err != nil {
					return err
				}
			}
			if m, err = c.Get(ctx, ref); err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(m)
			}
			fmt.Fprintf(e.out, "Machine %s (%s) in %s is %s at %s\n", m.ID, m.Name, m.Region, m.State, m.PrivateIP)
			fmt.Fprintf(e.err, "Next: gondola logs %s, gondola exec %s COMMAND, gondola machine destroy --force %s\n", m.ID, m.ID, m.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&app, "app", "a", "default", "App of the Machine, made when it is not there")
	f.StringVarP(&name, "name", "n", "", "name (default: made up)")
	f.StringVarP(&region, "region", "r", "", "region, or several in order of preference: fra,ams (default: any)")
	f.StringVar(&size, "size", "", "size, such as shared-cpu-1x")
	f.IntVar(&cpus, "cpus", 0, "number of CPUs")
	f.IntVar(&memory, "memory", 0, "memory in MB")
	f.StringVar(&restart, "restart", "", "restart policy: no, always or on-failure")
	f.StringVar(&driver, "driver", "", "isolation: gvisor or runc, if its operator allows it (default: the worker's)")
	f.StringVarP(&config, "config", "c", "", "file with a machine config in JSON")
	f.StringArrayVarP(&vars, "env", "e", nil, "environment variable NAME=VALUE")
	f.StringArrayVarP(&ports, "port", "p", nil, "open a port of the host, PORT[:MACHINEPORT][/udp]; several times")
	f.StringArrayVar(&mounts, "volume", nil, "mount a Volume of the App: VOLUME:/path, by id or name; VOLUME:/path:ro read-only")
	f.StringArrayVar(&meta, "metadata", nil, "metadata KEY=VALUE")
	f.BoolVarP(&detach, "detach", "d", false, "do not wait until it has started")
	f.BoolVar(&create, "create-only", false, "create it without starting it")
	return cmd
}

// pairs adds NAME=VALUE arguments to a map.
func pairs(args []string, flag string, to *map[string]string) error {
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return usageError{fmt.Errorf("%s %q: want NAME=VALUE", flag, a)}
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[k] = v
	}
	return nil
}

// service reads PORT[:MACHINEPORT][/PROTOCOL].
func service(arg string) (gondola.Service, error) {
	ports, protocol, given := strings.Cut(arg, "/")
	outer, inner, two := strings.Cut(ports, ":")
	if !two {
		inner = outer
	}
	o, err := strconv.ParseUint(outer, 10, 16)
	i, err2 := strconv.ParseUint(inner, 10, 16)
	if err != nil || err2 != nil || o == 0 || i == 0 || given && protocol != "tcp" && protocol != "udp" {
		return gondola.Service{}, usageError{fmt.Errorf("--port %q: want PORT, PORT:MACHINEPORT or PORT:MACHINEPORT/udp, such as 80:8080", arg)}
	}
	return gondola.Service{Protocol: cmp.Or(protocol, "tcp"), InternalPort: int(i), Ports: []json.RawMessage{fmt.Appendf(nil, `{"port":%d}`, o)}}, nil
}
