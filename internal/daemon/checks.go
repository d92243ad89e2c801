package daemon

import "gondola/internal/host"

// Check is one thing that a host needs or that is good to know.
type Check = host.Check

// Checks looks at this host, for `gondola doctor`.
func Checks() []Check { return host.Checks() }
