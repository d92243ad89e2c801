package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gondola"
	"gondola/client"
)

// become waits for a state and prints the outcome.
func (e *env) become(ctx context.Context, c *client.Client, before gondola.Machine, s gondola.State) error {
	m, err := e.arrive(ctx, c, before, gondola.WaitRequest{States: []gondola.State{s}})
	if err != nil {
		return err
	}
	return e.done(m, fmt.Sprintf("%s is %s", m.ID, m.State))
}

// arrive waits for a state and returns what has come of the Machine. What was started may have run and ended before anybody looked: that is as good.
func (e *env) arrive(ctx context.Context, c *client.Client, before gondola.Machine, req gondola.WaitRequest) (gondola.Machine, error) {
	err := e.settle(ctx, c, before.Ref(), req)
	m, getErr := c.Get(ctx, before.Ref())
	ran := getErr == nil && slices.Contains(req.States, gondola.Started) && (req.Version == "" || req.Version == m.Version) && endedSince(before, m)
	if err != nil && !ran {
		return m, err
	}
	return m, getErr
}

// endedSince says whether a Machine is at rest because its program has ended since it was as before; that of a restart does not count.
func endedSince(before, now gondola.Machine) bool {
	last := ""
	if len(before.Events) > 0 {
		last = before.Events[0].ID
	}
	return (now.State == gondola.Stopped || now.State == gondola.Destroyed) && slices.ContainsFunc(now.Events, func(ev gondola.Event) bool {
		var exit gondola.ExitEvent
		return ev.Type == "exit" && ev.ID > last && json.Unmarshal(ev.Request, &exit) == nil && !exit.ExitEvent.Restarting
	})
}

func (e *env) machineStart() *cobra.Command {
	return e.onMachines("start", "Start Machines that are stopped or suspended", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if _, err := c.Start(ctx, m.Ref()); err != nil {
			return err
		}
		return e.become(ctx, c, m, gondola.Started)
	})
}

func (e *env) machineStop() *cobra.Command {
	var how ending
	cmd := e.onMachines("stop", "Stop Machines", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		sig, limit, err := how.read()
		if err != nil {
			return err
		}
		if err := c.Stop(ctx, m.Ref(), gondola.StopRequest{Signal: sig, Timeout: limit}); err != nil {
			return err
		}
		return e.become(ctx, c, m, gondola.Stopped)
	})
	how.register(cmd.Flags())
	return cmd
}

// ending is how a Machine is to end, as flags.
type ending struct {
	signal  string
	timeout time.Duration
	flags   *pflag.FlagSet
}

func (n *ending) register(f *pflag.FlagSet) {
	n.flags = f
	f.StringVarP(&n.signal, "signal", "s", "", "signal to begin with (default: that of its config)")
	f.DurationVarP(&n.timeout, "timeout", "t", 0, "how long until SIGKILL, 0s for at once (default: that of its config)")
}

func (n *ending) read() (gondola.Signal, *gondola.Duration, error) {
	sig, err := gondola.ParseSignal(n.signal)
	if err != nil || !n.flags.Changed("timeout") {
		return sig, nil, err
	}
	if n.timeout < 0 {
		return sig, nil, UsageErrorf("--timeout %s: want zero or more, such as 10s", n.timeout)
	}
	limit := gondola.Duration(n.timeout)
	return sig, &limit, nil
}

func (e *env) machineSuspend() *cobra.Command {
	return e.onMachines("suspend", "Write out the memory of Machines, from where start goes on", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if err := c.Suspend(ctx, m.Ref()); err != nil {
			return err
		}
		// Back in started, it could not be suspended: its events say why.
		if err := e.settle(ctx, c, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Suspended, gondola.Started}}); err != nil {
			return err
		}
		now, err := c.Get(ctx, m.Ref())
		if err != nil {
			return err
		}
		if now.State != gondola.Suspended {
			return gondola.Errorf(gondola.ErrPrecondition, "machine %s was not suspended and is %s: %s", m.ID, now.State, suspendError(now.Events))
		}
		return e.done(now, fmt.Sprintf("%s is %s", m.ID, now.State))
	})
}

// suspendError is what the newest Event of a failed suspension says.
func suspendError(events []gondola.Event) string {
	for _, ev := range events {
		var failed struct{ Error string }
		if ev.Type == "suspend" && json.Unmarshal(ev.Request, &failed) == nil && failed.Error != "" {
			return failed.Error
		}
	}
	return "somebody has changed it meanwhile"
}

func (e *env) machineRestart() *cobra.Command {
	var how ending
	var force bool
	cmd := e.onMachines("restart", "Stop Machines and start them again", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		sig, limit, err := how.read()
		if err != nil {
			return err
		}
		if err := c.Restart(ctx, m.Ref(), gondola.RestartRequest{Signal: sig, Timeout: limit, ForceStop: force}); err != nil {
			return err
		}
		return e.become(ctx, c, m, gondola.Started)
	})
	how.register(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force-stop", false, "with SIGKILL at once")
	return cmd
}

func (e *env) machineKill() *cobra.Command {
	var signal string
	cmd := e.onMachines("kill", "Kill the main process of Machines; their restart policy says what follows", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		return e.signal(ctx, c, m, signal)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "which signal")
	return cmd
}

func (e *env) machineSignal() *cobra.Command {
	var signal string
	cmd := e.onMachine("signal", "Send a signal to a Machine's main process", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		return e.signal(ctx, c, m, signal)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGTERM", "which signal")
	return cmd
}

func (e *env) signal(ctx context.Context, c *client.Client, m gondola.Machine, name string) error {
	sig, err := gondola.ParseSignal(name)
	if err != nil {
		return err
	}
	if err := c.Signal(ctx, m.Ref(), sig); err != nil {
		return err
	}
	return e.done(map[string]any{"id": m.ID, "signal": sig}, fmt.Sprintf("%s has got %s", m.ID, sig))
}

func (e *env) machineDestroy() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "destroy MACHINE...", Aliases: []string{"rm"}, Short: "Destroy Machines for ever",
		Args: minArgs("a Machine"), Example: "  gondola machine destroy --force 3d8d9e1f0a2b4c", ValidArgsFunction: e.completeMachine,
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
				if err := c.Destroy(gondola.WithLease(cmd.Context(), e.lease), m.Ref(), force); err != nil {
					return err
				}
				if err := e.settle(cmd.Context(), c, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Destroyed}}); err != nil && !isKind(err, gondola.ErrNotFound) {
					return err
				}
				if err := e.done(map[string]any{"id": m.ID, "state": gondola.Destroyed}, string(m.ID)+" destroyed"); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if it runs")
	return cmd
}

func (e *env) machineUpdate() *cobra.Command {
	var image, command string
	var skip, yes bool
	var k configFlags
	cmd := e.onMachine("update", "Give a Machine a new config", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		req := gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: *m.Config, SkipLaunch: skip}, CurrentVersion: m.Version}
		if err := k.apply(&req.Config); err != nil {
			return err
		}
		if image != "" {
			req.Config.Image = image
		}
		if command != "" {
			words, err := plainWords("--command", command)
			if err != nil {
				return err
			}
			req.Config.Init.Cmd = words
		}
		u, err := c.Update(ctx, m.Ref(), req)
		if err != nil {
			return err
		}
		if skip {
			return e.done(u, fmt.Sprintf("%s will run version %s when it is started", m.ID, u.Version))
		}
		now, err := e.arrive(ctx, c, u, gondola.WaitRequest{States: []gondola.State{gondola.Started}, Version: u.Version})
		if err != nil {
			return err
		}
		if now.State != gondola.Started {
			return e.done(now, fmt.Sprintf("%s has run version %s and is %s", m.ID, u.Version, now.State))
		}
		return e.done(now, fmt.Sprintf("%s runs version %s", m.ID, u.Version))
	})
	f := cmd.Flags()
	f.StringVarP(&image, "image", "i", "", "new image")
	f.StringVarP(&command, "command", "C", "", "new command")
	f.BoolVar(&skip, "skip-start", false, "do not start it")
	f.BoolVarP(&yes, "yes", "y", false, "nothing is asked anyway")
	f.Lookup("yes").Hidden = true // scripts for the official CLI have it
	k.register(f)
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
	cmd.Flags().DurationVar(&timeout, "wait-timeout", time.Minute, "the same")
	return cmd
}
