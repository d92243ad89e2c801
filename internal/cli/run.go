package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

func (e *env) machineRun() *cobra.Command {
	cmd := e.newMachine("run", "Run an image as a Machine", false)
	cmd.Example = "  gondola machine run gondola.local/hello\n  gondola machine run --app web --region fra --vm-size shared-cpu-2x nginx\n" +
		"  gondola machine run --restart no gondola.local/hello /bin/sh -c 'echo hi'"
	return cmd
}

func (e *env) machineCreate() *cobra.Command {
	cmd := e.newMachine("create", "Create a Machine of an image without starting it", true)
	cmd.Example = "  gondola machine create --name later gondola.local/hello"
	return cmd
}

// newMachine is a command that makes a Machine; asleep: without starting it.
func (e *env) newMachine(use, short string, asleep bool) *cobra.Command {
	var app, name, region string
	var detach bool
	var k configFlags
	cmd := &cobra.Command{
		Use: use + " IMAGE [COMMAND...]", Short: short,
		Long: short + ".\n\nFlags stand before the image or right behind it; what follows is the command, from -- on in any case.",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 && k.file == "" {
				return UsageErrorf("machine %s wants an image, such as gondola.local/hello", use)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			args, help, err := flagsBehindImage(cmd, args)
			if err != nil || help {
				return err
			}
			req := gondola.CreateRequest{Name: name, Region: region, SkipLaunch: asleep}
			if err := k.apply(&req.Config); err != nil {
				return err
			}
			if len(args) > 0 {
				req.Config.Image = args[0]
				req.Config.Init.Cmd = args[1:]
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			if err := ensureApp(cmd.Context(), c, app); err != nil {
				return err
			}
			return e.launch(cmd.Context(), c, gondola.AppName(app), req, !detach && !asleep)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&app, "app", "a", "default", "App of the Machine, made when it is not there")
	f.StringVarP(&name, "name", "n", "", "name (default: made up)")
	f.StringVarP(&region, "region", "r", "", "region, or several in order of preference: fra,ams (default: any)")
	if !asleep {
		f.BoolVarP(&detach, "detach", "d", false, "do not wait until it has started")
		f.BoolVar(&asleep, "create-only", false, "create it without starting it, as machine create does")
	}
	k.register(f)
	return cmd
}

// flagsBehindImage takes the flags that stand between the image and its command.
func flagsBehindImage(cmd *cobra.Command, args []string) (rest []string, help bool, err error) {
	if len(args) < 2 || !strings.HasPrefix(args[1], "-") {
		return args, false, nil
	}
	f := cmd.Flags()
	if err := f.Parse(args[1:]); err != nil {
		return nil, false, usageError{fmt.Errorf("%w; see %s --help; a command that begins with a dash stands behind --", err, cmd.CommandPath())}
	}
	if f.Changed("help") {
		return nil, true, cmd.Help()
	}
	return append(args[:1:1], f.Args()...), false, nil
}

// launch creates a Machine, waits until it runs if that is wanted, and prints it.
func (e *env) launch(ctx context.Context, c *client.Client, app gondola.AppName, req gondola.CreateRequest, wait bool) error {
	m, err := c.Create(ctx, app, req)
	if err != nil {
		return err
	}
	return e.launched(ctx, c, app, m, req.Config.AutoDestroy, wait)
}

// launched waits until a Machine that was created runs, if that is wanted, and prints it.
func (e *env) launched(ctx context.Context, c *client.Client, app gondola.AppName, m gondola.Machine, autoDestroy, wait bool) error {
	ref := gondola.Ref{App: app, ID: m.ID}
	if wait {
		// One that goes away when it has ended may have done so already.
		ended := []gondola.State{gondola.Started, gondola.Stopped, gondola.Destroyed}
		if err := e.settle(ctx, c, ref, gondola.WaitRequest{States: ended}); err != nil && !(autoDestroy && isKind(err, gondola.ErrNotFound)) {
			return err
		}
	}
	now, err := c.Get(ctx, ref)
	switch {
	case err == nil:
		m = now
	case !autoDestroy || !isKind(err, gondola.ErrNotFound):
		return err
	}
	if e.asJSON {
		return e.printJSON(m)
	}
	fmt.Fprintf(e.out, "Machine %s (%s) in %s is %s at %s\n", m.ID, m.Name, m.Region, m.State, m.PrivateIP)
	if m.State != gondola.Destroyed {
		fmt.Fprintf(e.err, "Next: gondola logs %s, gondola exec %s COMMAND, gondola machine destroy --force %s\n", m.ID, m.ID, m.ID)
	}
	return nil
}
