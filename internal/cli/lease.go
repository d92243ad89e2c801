package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gondola"
	"gondola/client"
)

func (e *env) leaseCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "lease", Aliases: []string{"leases"}, Short: "Hold a Machine, so that nobody else changes it"}
	return group(cmd, e.leaseAcquire(), e.leaseShow(), e.leaseRelease())
}

func (e *env) leaseAcquire() *cobra.Command {
	var ttl time.Duration
	var description string
	cmd := e.onMachine("acquire", "Take the lease of a Machine, or refresh it with --lease NONCE", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if ttl%time.Second != 0 || ttl <= 0 {
			return gondola.Errorf(gondola.ErrInvalid, "--ttl %s: use whole seconds", ttl)
		}
		l, err := c.AcquireLease(ctx, m.Ref(), gondola.LeaseRequest{TTL: int(ttl / time.Second), Description: description})
		if err != nil {
			return err
		}
		return e.done(l, fmt.Sprintf("%s is yours until %s: change it with --lease %s", m.ID, clock(l.ExpiresAt), l.Nonce))
	})
	cmd.Flags().DurationVar(&ttl, "ttl", 30*time.Second, "for how long")
	cmd.Flags().StringVar(&description, "description", "", "what for")
	return cmd
}

func (e *env) leaseShow() *cobra.Command {
	cmd := e.onMachine("show", "Show who holds a Machine", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		l, err := c.Lease(ctx, m.Ref())
		if err != nil {
			return err
		}
		if e.asJSON {
			return e.printJSON(l)
		}
		return e.table([]string{"MACHINE", "OWNER", "EXPIRES", "NONCE", "DESCRIPTION"}, [][]string{{string(m.ID), l.Owner, clock(l.ExpiresAt), l.Nonce, l.Description}})
	})
	cmd.Aliases = []string{"view"}
	return cmd
}

// leaseRelease gives back the lease whose nonce was given, or whatever lease there is: a person at a terminal means that.
func (e *env) leaseRelease() *cobra.Command {
	cmd := e.onMachine("release", "Give a lease back, also somebody else's", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if gondola.LeaseNonce(ctx) == "" {
			l, err := c.Lease(ctx, m.Ref())
			if err != nil {
				return err
			}
			ctx = gondola.WithLease(ctx, l.Nonce)
		}
		if err := c.ReleaseLease(ctx, m.Ref()); err != nil {
			return err
		}
		return e.done(map[string]any{"id": m.ID}, string(m.ID)+" is free")
	})
	cmd.Aliases = []string{"clear"}
	return cmd
}

func clock(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

func (e *env) machineCordon() *cobra.Command {
	return e.onMachines("cordon", "Keep new connections from a Machine's services", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if err := c.Cordon(ctx, m.Ref()); err != nil {
			return err
		}
		return e.done(map[string]any{"id": m.ID, "cordoned": true}, string(m.ID)+" is cordoned")
	})
}

func (e *env) machineUncordon() *cobra.Command {
	return e.onMachines("uncordon", "Let new connections come to a Machine's services again", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		if err := c.Uncordon(ctx, m.Ref()); err != nil {
			return err
		}
		return e.done(map[string]any{"id": m.ID, "cordoned": false}, string(m.ID)+" is not cordoned")
	})
}

func (e *env) machineVersions() *cobra.Command {
	return e.onMachine("versions", "Show what a Machine has been, newest first", func(ctx context.Context, c *client.Client, m gondola.Machine) error {
		versions, err := c.Versions(ctx, m.Ref())
		if err != nil {
			return err
		}
		if e.asJSON {
			return e.printJSON(orEmpty(versions))
		}
		rows := [][]string{}
		for _, v := range versions {
			rows = append(rows, []string{string(v.Version), imageOf(&gondola.Machine{Config: v.Config})})
		}
		return e.table([]string{"VERSION", "IMAGE"}, rows)
	})
}
