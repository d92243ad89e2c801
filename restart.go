package gondola

import (
	"slices"
	"time"
)

// defaultRetries is how often a container is restarted on failure where its policy does not say.
const defaultRetries = 10

// Retries returns how many restarts on failure there are within the window of the backoff: -1 without end, 0 where the policy has none. Pure.
func (r *RestartPolicy) Retries() int {
	switch {
	case r == nil || (r.Policy == "" || r.Policy == RestartOnFailure) && r.MaxRetries == 0:
		return defaultRetries
	case r.Policy == RestartAlways || r.MaxRetries < 0 && r.Policy != RestartNo:
		return -1
	case r.Policy == RestartNo:
		return 0
	}
	return r.MaxRetries
}

// Restart decides what follows the end of a container, by its policy. Pure: failures counts the restarts so far, within the window that the
// backoff keeps.
func (r *RestartPolicy) Restart(exitCode, failures int) bool {
	retries := r.Retries()
	if r != nil && r.Policy == RestartAlways {
		return true
	}
	return exitCode != 0 && (retries < 0 || failures < retries)
}

// Restarts decides what follows the end of a container: by the first of its rules that the exit code matches, else by its policy.
func (c *Container) Restarts(exitCode, failures int) bool {
	if c.Gondola != nil {
		for _, r := range c.Gondola.RestartRules {
			if slices.Contains(r.ExitCodes, exitCode) != r.Not {
				return true
			}
		}
	}
	return c.Restart.Restart(exitCode, failures)
}

// Backoff says how long to wait before restarts.
type Backoff struct {
	First, Max time.Duration // the first wait, doubled every time up to Max
	Forget     time.Duration // a run of this length starts anew
}

// KubernetesBackoff is the kubelet's: 10 s doubling to 5 min, forgotten after 10 min of running.
var KubernetesBackoff = Backoff{First: 10 * time.Second, Max: 5 * time.Minute, Forget: 10 * time.Minute}

// FlyBackoff restarts at once at first and counts the restarts of 5 minutes (https://fly.io/docs/machines/guides-examples/machine-restart-policy/).
var FlyBackoff = Backoff{First: time.Second, Max: time.Minute, Forget: 5 * time.Minute}

// Wait returns how long to wait before restart number n+1, n restarts having happened in a row. The first restart of a row is immediate.
func (b Backoff) Wait(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	d := b.First
	for range n - 1 {
		if d *= 2; d >= b.Max {
			return b.Max
		}
	}
	return min(d, b.Max)
}

// Within returns the backoff with waits so short that so many retries happen within Forget: a limit of retries in that window is reached then.
// Zero and negative retries change nothing.
func (b Backoff) Within(retries int) Backoff {
	if retries > 0 {
		b.Max = min(b.Max, b.Forget/time.Duration(2*retries))
		b.First = min(b.First, b.Max)
	}
	return b
}
