package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gondola"
)

// idle measures the daemon with one cluster and no Pods.
func (b *bench) idle(ctx context.Context) error {
	if err := wait(ctx, time.Duration(b.rounds(20, 3))*time.Second); err != nil { // what a start leaves to do
		return err
	}
	used, window, err := b.window(ctx, func() (time.Duration, error) { return cpuOf(b.host.up.Process.Pid) })
	if err != nil {
		return err
	}
	m, err := memoryOf(b.host.up.Process.Pid)
	if err != nil {
		return err
	}
	b.add("daemon, one cluster, no Pods: RSS (of it no cached file)", mebibytes(m.rss)+" ("+mebibytes(m.own)+")", "")
	b.add(fmt.Sprintf("daemon, one cluster, no Pods: CPU over %.0f s", window.Seconds()), share(used, window), "")
	return nil
}

// window returns how much a counter of CPU time grows in half a minute.
func (b *bench) window(ctx context.Context, cpu func() (time.Duration, error)) (used, window time.Duration, err error) {
	before, err := cpu()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := wait(ctx, time.Duration(b.rounds(30, 5))*time.Second); err != nil {
		return 0, 0, err
	}
	after, err := cpu()
	return after - before, time.Since(began), err
}

// memory measures what idle Machines cost: their processes, the whole host, CPU.
func (b *bench) memory(ctx context.Context) (err error) {
	if err := b.ensureApp(ctx); err != nil {
		return err
	}
	if err := wait(ctx, time.Duration(b.rounds(5, 1))*time.Second); err != nil { // until what was before is freed
		return err
	}
	before, err := meminfo("MemAvailable")
	if err != nil {
		return err
	}
	n := b.rounds(24, 3)
	var machines []gondola.Machine
	defer func() {
		for _, m := range machines {
			err = errors.Join(err, b.destroy(context.WithoutCancel(ctx), m))
		}
	}()
	for range n {
		m, err := b.create(ctx, gvisor)
		if err != nil {
			return err
		}
		machines = append(machines, m)
		if _, err := b.host.api.Wait(ctx, m.Ref(), gondola.WaitRequest{Timeout: 30 * time.Second}); err != nil {
			return err
		}
	}
	if err := wait(ctx, time.Duration(b.rounds(10, 2))*time.Second); err != nil { // until they are idle
		return err
	}
	after, err := meminfo("MemAvailable")
	if err != nil {
		return err
	}
	groups, err := b.groups(machines)
	if err != nil {
		return err
	}
	if err := b.addMemory(groups, (before-after)/float64(n)); err != nil {
		return err
	}
	used, window, err := b.window(ctx, func() (sum time.Duration, err error) {
		for _, g := range groups {
			d, err := g.cpu()
			if err != nil {
				return 0, err
			}
			sum += d
		}
		return sum, nil
	})
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("idle Machine: CPU over %.0f s, mean of %d", window.Seconds(), n), share(used/time.Duration(n), window), "")
	return nil
}

// groups are the cgroups of Machines.
func (b *bench) groups(machines []gondola.Machine) ([]cgroup, error) {
	instance, err := b.host.instance()
	if err != nil {
		return nil, err
	}
	var out []cgroup
	for _, m := range machines {
		out = append(out, cgroup("gondola/"+instance+"/"+string(m.ID)))
	}
	return out, nil
}

func (b *bench) addMemory(groups []cgroup, available float64) error {
	parts, all := map[string]memory{}, memory{}
	for _, g := range groups {
		m, err := g.memory()
		if err != nil {
			return err
		}
		for name, part := range m {
			parts[name] = parts[name].plus(part)
			all = all.plus(part)
		}
	}
	n := float64(len(groups))
	var detail []string
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		detail = append(detail, fmt.Sprintf("%s %.1f", name, parts[name].pss/n/(1<<20)))
	}
	b.add(fmt.Sprintf("idle Machine: memory of all its processes, mean of %d: PSS (of it no cached file; RSS)", len(groups)),
		fmt.Sprintf("%s (%s; %s)", mebibytes(all.pss/n), mebibytes(all.own/n), mebibytes(all.rss/n)), "PSS by part, MiB: "+strings.Join(detail, ", "))
	b.add("idle Machine: MemAvailable of the host less, the daemon's growth included", mebibytes(available), "")
	return nil
}
