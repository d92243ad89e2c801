package oci_test

import (
	"testing"

	"gondola"
	"gondola/internal/driver/oci"
)

// TestMachineResources_MemoryIsAllThereIs: what is beyond a limit of memory is not swapped out instead, where the kernel can tell.
func TestMachineResources_MemoryIsAllThereIs(t *testing.T) {
	limits := gondola.Resources{MemoryBytes: 64 << 20}
	want := limits.MemoryBytes + gondola.Overhead.MemoryBytes
	if m := oci.MachineResources(limits, true).Memory; m == nil || m.Limit == nil || *m.Limit != want || m.Swap == nil || *m.Swap != want {
		t.Errorf("with swap that is counted: memory = %+v, want %d with swap and without", m, want)
	}
	if m := oci.MachineResources(limits, false).Memory; m == nil || m.Limit == nil || *m.Limit != want || m.Swap != nil {
		t.Errorf("with swap that is not counted: memory = %+v, want %d alone", m, want)
	}
	if m := oci.MachineResources(gondola.Resources{}, true).Memory; m != nil {
		t.Errorf("without a limit: memory = %+v, want nothing", m)
	}
}
