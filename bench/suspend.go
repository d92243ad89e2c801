package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"gondola"
)

// filler is a program that takes memory before it answers: a Machine that is suspended with hardly anything in it would flatter.
const filler = "head -c %d /dev/urandom > /memory/taken; exec /hello serve"

// suspend measures, of a Machine of 256 MB, how long it takes to be suspended and how soon it answers again, in turns with a stop and a start
// from the beginning. Once as the demo image is, and once with half of its memory in use.
func (b *bench) suspend(ctx context.Context) error {
	if err := b.ensureApp(ctx); err != nil {
		return err
	}
	return errors.Join(b.suspendWith(ctx, 0), b.suspendWith(ctx, 128))
}

func (b *bench) suspendWith(ctx context.Context, takenMB int) (err error) {
	config := gondola.Config{Image: helloImage, Guest: &gondola.Guest{CPUKind: "shared", CPUs: 1, MemoryMB: 256}, Gondola: &gondola.ConfigExtension{Driver: gvisor}}
	if takenMB > 0 {
		config.Containers = []gondola.Container{{Name: "main", Image: helloImage, Exec: []string{"/bin/sh", "-c", fmt.Sprintf(filler, takenMB<<20)},
			Mounts: []gondola.ContainerMount{{Name: "memory", Path: "/memory"}}}}
		config.Image = ""
		config.Volumes = []gondola.TempVolume{{Name: "memory", TempDir: &gondola.TempDir{StorageType: "memory"}}}
	}
	m, err := b.host.api.Create(ctx, appName, gondola.CreateRequest{Config: config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.destroy(context.WithoutCancel(ctx), m)) }()
	addr, err := netip.ParseAddr(m.PrivateIP)
	if err != nil {
		return err
	}
	at := netip.AddrPortFrom(addr, helloPort)
	if err := b.reachable(ctx, at.String()); err != nil {
		return err
	}
	n := b.rounds(40, 8)
	var suspended, resumed, stopped, started times
	for range n {
		before, err := counted(ctx, at)
		if err != nil {
			return err
		}
		s, r, err := b.suspendAndStart(ctx, m, addr)
		if err != nil {
			return err
		}
		after, err := counted(ctx, at)
		if err != nil || after <= before {
			return fmt.Errorf("machine %s was at request %d and is at %d: it was not resumed (%v)", m.ID, before, after, err)
		}
		suspended, resumed = append(suspended, s), append(resumed, r)
		s, r, err = b.stopAndStart(ctx, m, addr)
		if err != nil {
			return err
		}
		stopped, started = append(stopped, s), append(started, r)
	}
	what := fmt.Sprintf("Machine of 256 MB, %d MB of them taken", takenMB)
	b.add(fmt.Sprintf("%s: suspend → suspended, p50 / p99 of %d", what, n), suspended.String(), "stop → stopped: "+stopped.String())
	b.add(fmt.Sprintf("%s: start of a suspended one → first byte of its HTTP reply, p50 / p99 of %d", what, n), resumed.String(),
		"start of a stopped one: "+started.String())
	return nil
}

// counted is how many requests the program in a Machine has had, which it keeps in memory.
func counted(ctx context.Context, at netip.AddrPort) (n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+at.String()+"/", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/json")
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var self struct{ Requests int64 }
	err = json.NewDecoder(resp.Body).Decode(&self)
	return self.Requests, err
}
