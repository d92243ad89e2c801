package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

func (e *env) machineCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "machine", Aliases: []string{"machines", "m"}, Short: "Run and look at Machines"}
	cmd.PersistentFlags().StringVar(&e.lease, "lease", "", "nonce of the lease that lets you change the Machine")
	return group(cmd, e.machineRun(), e.machineCreate(), e.machineClone(), e.machineList(), e.machineStatus(), e.machineStart(), e.machineStop(), e.machineSuspend(),
		e.machineRestart(), e.machineSignal(), e.machineKill(), e.machineDestroy(), e.machineUpdate(), e.machineEvents(), e.machineVersions(), e.machineWait(), e.machineCordon(), e.machineUncordon(), e.leaseCommand(),
		e.logsCommand(), e.execCommand(), e.consoleCommand())
}

// find returns the Machine that a person means by an id or a name.
func find(ctx context.Context, c *client.Client, arg string) (gondola.Machine, error) {
	all, err := c.List(ctx, "", gondola.ListFilter{})
	if err != nil {
		return gondola.Machine{}, err
	}
	return meant("Machine", arg, all, func(m gondola.Machine) (string, string) { return string(m.ID), m.Name })
}

// meant returns the one of all that has arg as its id or else, alone, as its name. kind is a Machine or a volume.
func meant[T any](kind, arg string, all []T, called func(T) (id, name string)) (none T, err error) {
	var found []T
	var ids []string
	for _, x := range all {
		id, name := called(x)
		if id == arg {
			return x, nil
		}
		if name == arg {
			found, ids = append(found, x), append(ids, id)
		}
	}
	switch len(found) {
	case 0:
		return none, gondola.Errorf(gondola.ErrNotFound, "there is no %s %q: see gondola %s list", kind, arg, strings.ToLower(kind))
	case 1:
		return found[0], nil
	}
	return none, gondola.Errorf(gondola.ErrInvalid, "%d %ss are named %q: use an id, one of %s", len(found), kind, arg, strings.Join(ids, ", "))
}

// onMachine is a command on one Machine.
func (e *env) onMachine(use, short string, do func(ctx context.Context, c *client.Client, m gondola.Machine) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " MACHINE", Short: short, Args: exactArgs("the id or name of a Machine"), ValidArgsFunction: e.completeMachine,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			m, err := find(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return do(gondola.WithLease(cmd.Context(), e.lease), c, m)
		},
	}
}

// onMachines is a command on one Machine or several, one after the other.
func (e *env) onMachines(use, short string, do func(ctx context.Context, c *client.Client, m gondola.Machine) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " MACHINE...", Short: short, Args: minArgs("the id or name of a Machine"), ValidArgsFunction: e.completeMachine,
		Example: "  gondola machine " + use + " 3d8d9e1f0a2b4c",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			for _, arg := range args {
				m, err := find(cmd.Context(), c, arg)
				if err != nil {
					return err
				}
				if err := do(gondola.WithLease(cmd.Context(), e.lease), c, m); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// settle waits for a state, telling about it after a second. An image that cannot be had is told at once, though the Machine goes on trying.
func (e *env) settle(ctx context.Context, c *client.Client, ref gondola.Ref, req gondola.WaitRequest) error {
	stop := e.progress(fmt.Sprintf("waiting for Machine %s to be %s", ref.ID, joinStates(req.States)))
	defer stop()
	req.Timeout = 500 * time.Millisecond // to look in between at what it waits for itself
	for {
		_, err := c.Wait(ctx, ref, req)
		if err == nil {
			return nil
		}
		m, getErr := c.Get(ctx, ref)
		if getErr != nil || ctx.Err() != nil {
			return err
		}
		switch why := imageTrouble(&m); {
		case m.State == gondola.Failed || m.State == gondola.LaunchFailed:
			if m.Gondola != nil && m.Gondola.Message != "" {
				why = m.Gondola.Message
			}
			return fmt.Errorf("machine %s is %s: %s; see gondola machine status %s, remove it with gondola machine destroy %s", m.ID, m.State, why, m.ID, m.ID)
		case why != "":
			return gondola.Errorf(gondola.ErrImage, "machine %s cannot start: %s; it goes on trying: see gondola machine status %s, end it with gondola machine destroy --force %s",
				m.ID, why, m.ID, m.ID)
		case slices.Contains(req.States, m.State): // it got there meanwhile: Wait says so
		case !isKind(err, gondola.ErrDeadline) || !m.State.Transient() && m.State != gondola.Created:
			return err
		}
	}
}

// imageTrouble is what keeps a Machine from having its images; empty if nothing does.
func imageTrouble(m *gondola.Machine) string {
	if m.Gondola == nil {
		return ""
	}
	for _, k := range m.Gondola.Containers {
		switch k.State.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
			return k.State.Message
		}
	}
	return ""
}

func joinStates(s []gondola.State) string {
	var out []string
	for _, x := range s {
		out = append(out, string(x))
	}
	return strings.Join(out, " or ")
}

// progress says what is waited for, once it takes over a second. The returned function, to be called
// once, ends that: nothing is being written any more when it returns.
func (e *env) progress(what string) (stop func()) {
	said := make(chan struct{})
	t := time.AfterFunc(time.Second, func() {
		defer close(said)
		fmt.Fprintln(e.err, what+" …")
	})
	return func() {
		if !t.Stop() {
			<-said
		}
	}
}

func (e *env) machineList() *cobra.Command {
	var app, region string
	var states []string
	var quiet bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List Machines", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			filter := gondola.ListFilter{Region: gondola.Region(region)}
			for _, state := range states {
				s, err := gondola.ParseState(state)
				if err != nil {
					return gondola.Errorf(gondola.ErrInvalid, "%v: want one of %s", err, joinStates(gondola.States()))
				}
				filter.States = append(filter.States, s)
			}
			if region != "" {
				if err := knownRegion(cmd.Context(), c, filter.Region); err != nil {
					return err
				}
			}
			all, err := c.List(cmd.Context(), gondola.AppName(app), filter)
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(orEmpty(all))
			}
			if quiet {
				for _, m := range all {
					fmt.Fprintln(e.out, m.ID)
				}
				return nil
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
	cmd.Flags().StringSliceVar(&states, "state", nil, "only Machines in this state, or in one of several, separated by commas")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only ids")
	return cmd
}

// knownRegion is an error that names the regions there are if r is none of them.
func knownRegion(ctx context.Context, c *client.Client, r gondola.Region) error {
	regions, err := c.Regions(ctx)
	if err != nil {
		return err
	}
	var codes []string
	for _, known := range regions {
		if known.Code == r {
			return nil
		}
		codes = append(codes, string(known.Code))
	}
	return gondola.Errorf(gondola.ErrInvalid, "region %q is not known: there is %s", r, strings.Join(codes, ", "))
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
	cmd := e.onMachine("status", "Show a Machine in full", func(_ context.Context, _ *client.Client, m gondola.Machine) error {
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
		if len(m.Checks) > 0 {
			rows := [][]string{}
			for _, k := range m.Checks {
				rows = append(rows, []string{k.Name, k.Status, k.UpdatedAt.Format(time.RFC3339), strings.Join(strings.Fields(k.Output), " ")})
			}
			fmt.Fprintln(e.out)
			if err := e.table([]string{"CHECK", "STATUS", "SINCE", "OUTPUT"}, rows); err != nil {
				return err
			}
		}
		fmt.Fprintln(e.out)
		return e.events(m.Events)
	})
	cmd.Aliases = []string{"show"}
	return cmd
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
			return e.printJSON(orEmpty(events))
		}
		return e.events(events)
	})
}
