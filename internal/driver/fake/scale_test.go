package fake_test

import (
	"runtime"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

func TestScale_ThousandMachinesAreCheap(t *testing.T) {
	const n = 1000
	d := fake.NewDriver()
	t.Cleanup(func() { d.Close() })
	h := fake.NewHost(fake.HostConfig{Dir: t.TempDir()})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	var apis []pilot.API
	for range n {
		api, err := d.Launch(t.Context(), prepare(t, h, pilot.Container{Name: "main", Args: []string{"/program", "run"}}), nil)
		if err != nil {
			t.Fatal(err)
		}
		apis = append(apis, api)
	}
	for _, api := range apis {
		await(t, api, "ready", func(s pilot.Status) bool { return s.Containers[0].Ready })
	}
	up := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (after.Sys - before.Sys) / n
	t.Logf("%d Machines in %v, %d KB each", n, up, each>>10)
	if each > 512<<10 {
		t.Errorf("a Machine takes %d KB, want under 512", each>>10)
	}
	for _, api := range apis {
		if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, api := range apis {
		await(t, api, "the end", func(s pilot.Status) bool { return s.Phase == pilot.Ended })
	}
}
