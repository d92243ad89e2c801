package worker_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gondola"
	"gondola/internal/worker"
)

// TestFullDisk_DuringAPullIsNoFailure: images go when the pull is done.
func TestFullDisk_DuringAPullIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{})
		var log bytes.Buffer
		r.change = func(cfg *worker.Config) {
			cfg.KeepImages = 1 << 62
			cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		}
		r.fake.SetStats(gondola.HostStats{MemoryTotal: 1 << 30, MemoryAvailable: 1 << 30, MaxPIDs: 1000,
			Disk: gondola.DiskStats{Total: 100 << 30, Available: 1 << 20, InodesTotal: 1 << 20, InodesAvailable: 1 << 20}})
		w, stop := r.run()
		pulled := make(chan struct{})
		r.fake.FailOn(func(step string, _ gondola.MachineID) error {
			if step == "EnsureImage" {
				<-pulled
			}
			return nil
		})
		m := r.create(w, gondola.CreateRequest{Config: longRunning()})
		<-time.After(5 * time.Minute)
		close(pulled)
		r.await(w, m.ID, gondola.Started)
		if _, err := w.ImportImage(t.Context(), strings.NewReader("nobody's"), "test/nobodys"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if infos, err := w.ListImages(t.Context()); err != nil || len(infos) != 1 || infos[0].Reference != "test/app" {
			t.Errorf("after the pull there are %v, %v; want the one that is used", infos, err)
		}
		stop()
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				t.Errorf("logged: %s", line)
			}
		}
	})
}
