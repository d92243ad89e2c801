package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

func (e *env) machineCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "machine", Aliases: []string{"machines", "m"}, Short: "Run and look at Machines"}
	cmd.AddCommand(e.machineRun(), e.machineList(), e.machineStatus(), e.machineStart(), e.machineStop(), e.machineRestart(), e.machineSignal(),
		e.machineDestroy(), e.machineUpdate(), e.machineEvents(), e.machineWait(), e.logsCommand(), e.execCommand())
	return cmd
}

// find returns the Machine that a person means by an id or a name.
func find(ctx context.Context, c *client.Client, arg string) (gondola.Machine, error) {
	all, err := c.List(ctx, "", gondola.ListFilter{})
	if err != nil {
		return gondola.Machine{}, err
	}
	var named []gondola.Machine
	for _, m := range all {
		if string(m.ID) == arg {
			return m, nil
		}
		if m.Name == arg {
			named = append(named, m)
		}
	}
	switch len(named) {
	case 0:
		return gondola.Machine{}, gondola.Errorf(gondola.ErrNotFound, "there is no Machine %q: see gondola machine list", arg)
	case 1:
		return named[0], nil
	}
	return gondola.Machine{}, gondola.Errorf(gondola.ErrInvalid, "%d Machines are named %q: use an id of gondola machine list", len(named), arg)
}

// onMachine is a command on one Machine.
func (e *env) onMachine(use, short string, do func(ctx context.Context, c *client.Client, m gondola.Machine) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " MACHINE", Short: short, Args: exactArgs("the id or name of a Machine"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			m, err := find(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), c, m)
		},
	}
}

// settle waits for a state, telling about it after a second, and prints the outcome.
func (e *env) settle(ctx context.Context, c *client.Client, ref gondola.Ref, req gondola.WaitRequest) error {
	stop := e.progress(fmt.Sprintf("waiting for Machine %s to be %s", ref.ID, joinStates(req.States)))
	defer stop()
	for {
		_, err := c.Wait(ctx, ref, req)
		if err == nil {
			return nil
		}
		m, getErr := c.Get(ctx, ref)
		if getErr != nil {
			return err
		}
		if m.State == gondola.Failed || m.State == gondola.LaunchFailed {
			why := ""
			if m.Gondola != nil {
				why = ": " + m.Gondola.Message
			}
			return fmt.Errorf("machine %s is %s%s; see gondola machine status %s", m.ID, m.State, why, m.ID)
		}
		if !m.State.Transient() && m.State != gondola.Created || ctx.Err() != nil {
			return err
		}
	}
}

func joinStates(s []gondola.State) string {
	var out []string
	for _, x := range s {
		out = append(out, string(x))
	}
	return strings.Join(out, " or ")
}

// progress says what is waited for, once it takes over a second; the returned function ends that.
func (e *env) progress(what string) (stop func()) {
	t := time.AfterFunc(time.Second, func() { fmt.Fprintln(e.err, what+" …") })
	return func() { t.Stop() }
}

func (e *env) machineRun() *cobra.Command {
	var app, name, region, size, restart, config string
	var vars, meta []string
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
			if restart != "" {
				req.Config.Restart = &gondola.RestartPolicy{Policy: restart}
			}
			if err := pairs(vars, "--env", &req.Config.Env); err != nil {
				return err
			}
			if err := pairs(meta, "--metadata", &req.Config.Metadata); err != nil {
				return err
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if _, err := c.CreateApp(ctx, gondola.NewApp{Name: gondola.AppName(app), Org: gondola.Org}); err != nil && !isKind(err, gondola.ErrNameTaken) {
				return err
			}
			m, err := c.Create(ctx, gondola.AppName(app), req)
			if err != nil {
				return err
			}
			ref := gondola.Ref{App: gondola.AppName(app), ID: m.ID}
			if !detach && !create {
				if err := e.settle(ctx, c, ref, gondola.WaitRequest{States: []gondola.State{gondola.Started, gondola.Stopped}, Timeout: time.Minute}); err != nil {
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
	f.StringVarP(&config, "config", "c", "", "file with a machine config in JSON")
	f.StringArrayVarP(&vars, "env", "e", nil, "environment variable NAME=VALUE")
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

func (e *env) machineList() *cobra.Command {
	var app, region, state string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List Machines", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			filter := gondola.ListFilter{Region: gondola.Region(region)}
			if state != "" {
				if filter.State, err = gondola.ParseState(state); err != nil {
					return err
				}
			}
			all, err := c.List(cmd.Context(), gondola.AppName(app), filter)
			if err != nil {
				return err
			}
			if e.asJSON {
				if all == nil {
					all = []gondola.Machine{}
				}
				return e.printJSON(all)
			}
			rows := [][]string{}
			for _, m := range all {
				rows = append(rows, []string{string(m.ID), m.Name, string(m.Ref().App), string(m.Region), string(m.State), addresses(&m), imageOf(&m), age(m.CreatedAt)})
			}
			return e.table([]string{"ID", "NAME", "APP", "REGION", "STATE", "ADDRESS", "IMAGE", "AGE"}, rows)
		},
	}
	cmd.Flags().StringVarP(&app, "app", "a", "", "only Machines of this App")
	cmd.Flags().StringVarP(&region, "region", "r", "", "only Machines in this region")
	cmd.Flags().StringVar(&state, "state", "", "only Machines in this state")
	return cmd
}

func imageOf(m *gondola.Machine) string {
	if m.Config == nil {
		return ""
	}
	if len(m.Config.Containers) == 0 {
		return m.Config.Image
	}
	for i, k := range m.Config.Containers {
		if k.Gondola == nil || !k.Gondola.Init {
			if n := len(m.Config.Containers) - i - 1; n > 0 {
				return fmt.Sprintf("%s +%d", k.Image, n)
			}
			return k.Image
		}
	}
	return m.Config.Containers[0].Image
}

func addresses(m *gondola.Machine) string {
	if m.Gondola == nil || len(m.Gondola.Addresses) == 0 {
		return m.PrivateIP
	}
	return m.Gondola.Addresses[0].String()
}

func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func (e *env) machineStatus() *cobra.Command {
	return e.onMachine("status", "Show a Machine in full", func(_ context.Context, _ *client.Client, m gondola.Machine) error {
		if e.asJSON {
			return e.printJSON(m)
		}
		fmt.Fprintf(e.out, "Machine  %s (%s)\nApp      %s\nState    %s\nRegion   %s\nVersion  %s\nCreated  %s\n", m.ID, m.Name, m.Ref().App, m.State, m.Region, m.Version, m.CreatedAt.Format(time.RFC3339))
		if g := m.Gondola; g != nil {
			fmt.Fprintf(e.out, "Address  %s\nHolds    %s\n", strings.Trim(fmt.Sprint(g.Addresses), "[]"), g.Allocated)
			if g.Message != "" {
				fmt.Fprintf(e.out, "Reason   %s: %s\n", g.Reason, g.Message)
			}
			rows := [][]string{}
			for _, k := range g.Containers {
				rows = append(rows, []string{k.Name, k.Image, containerState(k.State), fmt.Sprint(k.RestartCount), fmt.Sprint(k.Ready)})
			}
			fmt.Fprintln(e.out)
			if err := e.table([]string{"CONTAINER", "IMAGE", "STATE", "RESTARTS", "READY"}, rows); err != nil {
				return err
			}
		}
		fmt.Fprintln(e.out)
		return e.events(m.Events)
	})
}

func containerState(s gondola.ContainerState) string {
	switch s.Kind {
	case gondola.ContainerExited:
		return fmt.Sprintf("exited %d %s", s.ExitCode, s.Reason)
	case gondola.ContainerWaiting:
		return "waiting " + s.Reason
	case gondola.ContainerRunning:
		return "running"
	}
	return string(s.Kind)
}

func (e *env) events(events []gondola.Event) error {
	rows := [][]string{}
	for _, ev := range events {
		rows = append(rows, []string{time.UnixMilli(ev.Timestamp).UTC().Format(time.RFC3339), ev.Type, ev.Status, ev.Source})
	}
	return e.table([]string{"TIME", "EVENT", "STATUS", "SOURCE"}, rows)
}

func (e *env) machineEvents() *cobra.Command {
	return e.onMachine("events", "Show what was done to a Machine, newest first", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		events, err := c.Events(ctx, m.Ref(), 0)
		if err != nil {
			return err
		}
		if e.asJSON {
			return e.printJSON(events)
		}
		return e.events(events)
	})
}

func (e *env) machineStart() *cobra.Command {
	return e.onMachine("start", "Start a stopped Machine", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if _, err := c.Start(ctx, m.Ref()); err != nil {
			return err
		}
		return e.settle(ctx, c, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Started}})
	})
}

func (e *env) machineStop() *cobra.Command {
	var signal string
	var timeout time.Duration
	cmd := e.onMachine("stop", "Stop a Machine", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		sig, err := gondola.ParseSignal(signal)
		if err != nil {
			return err
		}
		req := gondola.StopRequest{Signal: sig}
		if timeout > 0 {
			req.Timeout = new(gondola.Duration)
			*req.Timeout = gondola.Duration(timeout)
		}
		if err := c.Stop(ctx, m.Ref(), req); err != nil {
			return err
		}
		return e.settle(ctx, c, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Stopped}})
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "signal to begin with (default: that of its config)")
	cmd.Flags().DurationVarP(&timeout, "timeout", "t", 0, "how long until SIGKILL (default: that of its config)")
	return cmd
}

func (e *env) machineRestart() *cobra.Command {
	return e.onMachine("restart", "Stop a Machine and start it again", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if err := c.Restart(ctx, m.Ref(), gondola.RestartRequest{}); err != nil {
			return err
		}
		return e.settle(ctx, c, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Started}})
	})
}

func (e *env) machineSignal() *cobra.Command {
	var signal string
	cmd := e.onMachine("signal", "Send a signal to a Machine's main process", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		sig, err := gondola.ParseSignal(signal)
		if err != nil {
			return err
		}
		return c.Signal(ctx, m.Ref(), sig)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGTERM", "which signal")
	return cmd
}

func (e *env) machineDestroy() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "destroy MACHINE...", Aliases: []string{"rm"}, Short: "Destroy Machines for ever",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			for _, a := range args {
				m, err := find(cmd.Context(), c, a)
				if err != nil {
					return err
				}
				if err := c.Destroy(cmd.Context(), m.Ref(), force); err != nil {
					return err
				}
				if err := e.settle(cmd.Context(), c, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Destroyed}}); err != nil && !isKind(err, gondola.ErrNotFound) {
					return err
				}
				fmt.Fprintln(e.out, m.ID, "destroyed")
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if it runs")
	return cmd
}

func (e *env) machineUpdate() *cobra.Command {
	var image, config string
	var vars []string
	cmd := e.onMachine("update", "Give a Machine a new config", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		req := gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: *m.Config}, CurrentVersion: m.Version}
		if config != "" {
			b, err := os.ReadFile(config)
			if err != nil {
				return err
			}
			req.Config = gondola.Config{}
			if err := json.Unmarshal(b, &req.Config); err != nil {
				return fmt.Errorf("%s is not a machine config: %w", config, err)
			}
		}
		if image != "" {
			req.Config.Image = image
		}
		if err := pairs(vars, "--env", &req.Config.Env); err != nil {
			return err
		}
		u, err := c.Update(ctx, m.Ref(), req)
		if err != nil {
			return err
		}
		if err := e.settle(ctx, c, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Started}, Version: u.Version}); err != nil {
			return err
		}
		fmt.Fprintln(e.out, m.ID, "runs version", u.Version)
		return nil
	})
	cmd.Flags().StringVar(&image, "image", "", "new image")
	cmd.Flags().StringVarP(&config, "config", "c", "", "file with the whole new config in JSON")
	cmd.Flags().StringArrayVarP(&vars, "env", "e", nil, "environment variable NAME=VALUE to set")
	return cmd
}

func (e *env) machineWait() *cobra.Command {
	var state string
	var timeout time.Duration
	cmd := e.onMachine("wait", "Wait until a Machine is in a state", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		s, err := gondola.ParseState(state)
		if err != nil {
			return err
		}
		r, err := c.Wait(ctx, m.Ref(), gondola.WaitRequest{States: []gondola.State{s}, Timeout: timeout})
		if err != nil {
			return err
		}
		if e.asJSON {
			return e.printJSON(r)
		}
		fmt.Fprintln(e.out, m.ID, "is", r.State)
		return nil
	})
	cmd.Flags().StringVar(&state, "state", "started", "which state")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long, at most 60s")
	return cmd
}
