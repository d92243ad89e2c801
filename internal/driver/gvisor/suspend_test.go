package gvisor_test

import (
	"testing"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/pilot"
)

// TestSuspend_TheSandboxHasTheLimitsOfTheSpec: one that was resized, and then suspended, is not made again with the limits of its snapshot.
func TestSuspend_TheSandboxHasTheLimitsOfTheSpec(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
	spec.Limits = gondola.Resources{CPUMillis: 500, MemoryBytes: 128 << 20}
	api := launch(t, d, spec)
	await(t, api, running)
	spec.Limits = gondola.Resources{CPUMillis: 900, MemoryBytes: 512 << 20}
	if err := api.Resize(t.Context(), pilot.Size{Size: gondola.Size{Limits: spec.Limits}}); err != nil {
		t.Fatalf("Resize = %v", err)
	}
	if err := api.Suspend(t.Context()); err != nil {
		t.Fatalf("Suspend = %v", err)
	}
	if err := d.Kill(t.Context(), spec); err != nil { // as a worker does
		t.Fatal(err)
	}
	place.Renew(t, spec)
	if s := await(t, launch(t, d, spec), running); !s.Resumed || s.Cold != "" {
		t.Fatalf("resumed %t, cold %q", s.Resumed, s.Cold)
	}
	if _, limit := cgroup.Host().Memory(spec.Cgroup + "/sandbox"); limit != spec.Limits.MemoryBytes+gondola.Overhead.MemoryBytes {
		t.Errorf("the sandbox may have %d bytes, want %d and what it needs itself", limit, spec.Limits.MemoryBytes)
	}
}
