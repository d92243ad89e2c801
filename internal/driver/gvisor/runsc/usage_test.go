package runsc_test

import (
	"testing"
	"time"

	"gondola"
)

func TestStats_ContainersAddUpToTheMachine(t *testing.T) {
	m := boot(t, nil)
	m.start("one", nil, "serve", "8080").line(t)
	m.start("two", nil, "spin")
	var was, now gondola.MachineStats
	stats := func() gondola.MachineStats {
		s, err := m.Stats(t.Context())
		if err != nil || len(s.Containers) != 2 {
			t.Fatalf("Stats = %+v, %v; want two containers", s, err)
		}
		return s
	}
	was = stats()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if now = stats(); now.CPU.UsageNanos > was.CPU.UsageNanos+5e8 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("CPU time grows from %d to %d only", was.CPU.UsageNanos, now.CPU.UsageNanos)
		}
		<-time.After(50 * time.Millisecond)
	}
	idle, busy := now.Containers[0], now.Containers[1]
	if busy.Name != "two" || busy.CPU.UsageNanos < 10*(idle.CPU.UsageNanos-was.Containers[0].CPU.UsageNanos) {
		t.Errorf("CPU time: %s %d, %s %d more", busy.Name, busy.CPU.UsageNanos, idle.Name, idle.CPU.UsageNanos-was.Containers[0].CPU.UsageNanos)
	}
	if sum := busy.CPU.UsageNanos + idle.CPU.UsageNanos; sum > now.CPU.UsageNanos || sum < now.CPU.UsageNanos*9/10 {
		t.Errorf("CPU time of containers adds up to %d, the Machine's is %d", sum, now.CPU.UsageNanos)
	}
	if sum := busy.Memory.WorkingSet + idle.Memory.WorkingSet; sum <= 0 || sum > now.Memory.WorkingSet {
		t.Errorf("memory of containers adds up to %d, the Machine's is %d", sum, now.Memory.WorkingSet)
	}
	if idle.Memory.WorkingSet <= 0 || idle.Processes < 1 {
		t.Errorf("idle container = %+v, want some memory and a process", idle)
	}
	if idle.Rootfs.Used == 0 || idle.Rootfs.Inodes == 0 {
		t.Errorf("writable layer = %+v, want its directories at least", idle.Rootfs)
	}
}
