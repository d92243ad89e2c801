package pilot

import (
	"time"

	"gondola"
)

// endedForMemory records the end of the containers that ran in a sandbox whose memory was used up. What is not to be restarted when it fails has
// ended for good: that is the Machine's own doing, unlike the loss of a sandbox or a host, after which everything starts anew.
func (s *Supervisor) endedForMemory() {
	for _, c := range s.containers() {
		rec := s.ledger.container(c.Name)
		if !rec.Begun || rec.Status.State.Kind != gondola.ContainerRunning {
			continue
		}
		s.ended(c, gondola.ContainerState{Kind: gondola.ContainerExited, Reason: "OOMKilled", ExitCode: 137, Signal: 9,
			StartedAt: rec.Status.State.StartedAt, FinishedAt: time.Now(), Message: "The sandbox has used more memory than its limit."})
	}
}
