package kube

import (
	"log/slog"
	"os"
	"testing"

	"k8s.io/klog/v2"
)

// What is fatal to a part that is told to stop ends neither the process nor the wait for that part, also once the next cluster has begun.
func TestBridgeLogs_OutlivesWhatIsFatalToAPartThatStops(t *testing.T) {
	hush, restore := bridgeLogs(slog.New(slog.DiscardHandler))
	defer restore()
	hush()
	_, restoreNext := bridgeLogs(slog.New(slog.DiscardHandler))
	defer restoreNext()
	stderr := os.Stderr
	defer func() { os.Stderr = stderr }()
	var err error
	if os.Stderr, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil { // klog writes the stack there
		t.Fatal(err)
	}
	defer os.Stderr.Close()
	for _, fatal := range []func(){
		func() { klog.Fatalf("PostStartHook %q failed: %v", "one", "context canceled") },
		func() { klog.FlushAndExit(klog.ExitFlushTimeout, 1) },
	} {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			fatal()
			t.Error("a part goes on after what is fatal to it")
		}()
		<-ended
	}
}
