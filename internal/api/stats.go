package api

import (
	"net/http"
	"slices"

	"gondola"
	"gondola/internal/auth"
)

// stats tells what Machines use; of all of them only those that the caller sees. The state of hosts is no secret: the market tells as much.
func (a *API) stats(c *call) error {
	hostOnly, err := c.flag("host_only")
	if err != nil {
		return err
	}
	sees, err := a.visible(c.ctx(), c.who, auth.EveryOrg)
	if err != nil {
		return err
	}
	req := gondola.StatsRequest{Region: gondola.Region(c.query("region")), Metadata: c.metadata(), HostOnly: hostOnly,
		Ref: gondola.Ref{App: gondola.AppName(c.query("app")), ID: gondola.MachineID(c.query("machine"))}}
	workers, err := a.server.Stats(c.ctx(), req)
	if err != nil {
		return err
	}
	for i := range workers {
		workers[i].Machines = slices.DeleteFunc(workers[i].Machines, func(m gondola.MachineStats) bool { return !sees(m.Ref.App, m.Ref.ID) })
		if workers[i].Machines == nil {
			workers[i].Machines = []gondola.MachineStats{}
		}
	}
	if workers == nil {
		workers = []gondola.WorkerStats{}
	}
	return c.send(http.StatusOK, workers)
}
