package runsc

import (
	"os"
	"runtime/debug"
	"time"
	_ "unsafe" // for linkname

	"gvisor.dev/gvisor/pkg/sync"
)

// Runsc's processes start once per container or once per Machine, and what they do at their start is most of what a start costs.

// startTime is how long a sandbox or a gofer is taken to be starting.
const startTime = 2 * time.Second

// tune makes the start of this process, which is runsc, cheaper.
func tune() {
	// Short-lived commands end before a collection pays; sandbox and gofer collect once they have started.
	debug.SetGCPercent(-1)
	switch os.Args[0] {
	case "runsc-sandbox":
		seccheckOnce.Do(func() {})
		useFilters(true) // or else runsc builds them
		useUmounter()
		useForwarding()
	case "runsc-gofer":
		useFilters(false)
	default:
		return
	}
	time.AfterFunc(startTime, func() { debug.SetGCPercent(100) })
}

// seccheckOnce guards the registration of some 700 trace points, which would take 6 ms of CPU time at the start of every sandbox. Nothing but
// runsc's trace commands, which Main leaves out, asks for one.
//
//go:linkname seccheckOnce gvisor.dev/gvisor/pkg/sentry/seccheck.initOnce
var seccheckOnce sync.Once
