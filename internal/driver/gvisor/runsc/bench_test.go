package runsc_test

import (
	"testing"
	"time"

	"gondola/internal/pilot"
)

// TestStart_Speed prints how long the parts of a start take. It asserts nothing: bench/ measures.
func TestStart_Speed(t *testing.T) {
	for range 5 {
		begin := time.Now()
		m := boot(t, nil)
		booted := time.Since(begin)
		begin = time.Now()
		out := m.start("one", nil, "echo", "hello")
		started := time.Since(begin)
		out.line(t)
		line := time.Since(begin)
		begin = time.Now()
		m.wait("one")
		if err := m.Delete(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		deleted := time.Since(begin)
		begin = time.Now()
		m.Destroy(t.Context(), m.spec)
		t.Logf("netns+boot %v, start %v, first line %v, wait+delete %v, destroy %v", booted, started, line, deleted, time.Since(begin))
	}
	_ = pilot.Run{}
}
