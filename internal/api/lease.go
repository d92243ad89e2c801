package api

import (
	"net/http"

	"gondola"
)

// leaseAnswer is what the API wraps answers about leases in (trap 7).
type leaseAnswer[T any] struct {
	Status string `json:"status"`
	Data   T      `json:"data"`
}

func sendLease[T any](c *call, code int, data T) error {
	return c.send(code, leaseAnswer[T]{"success", data})
}

// aboutLease is an error of the routes of leases, whose body has a form of its own.
type aboutLease struct{ error }

func (e aboutLease) Unwrap() error { return e.error }

func (a *API) acquireLease(c *call) error {
	var req gondola.LeaseRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	ttl, err := c.number("ttl") // fly-go's place for it
	if err != nil {
		return err
	}
	if ttl > 0 {
		req.TTL = int(min(ttl, gondola.MaxLeaseTTL+1))
	}
	lease, err := a.server.AcquireLease(c.ctx(), c.ref(), req)
	if err != nil {
		return aboutLease{err}
	}
	return sendLease(c, http.StatusCreated, lease)
}

func (a *API) showLease(c *call) error {
	lease, err := a.server.Lease(c.ctx(), c.ref())
	if err != nil {
		return aboutLease{err}
	}
	return sendLease(c, http.StatusOK, lease)
}

func (a *API) releaseLease(c *call) error {
	if err := a.server.ReleaseLease(c.ctx(), c.ref()); err != nil {
		return aboutLease{err}
	}
	return sendLease(c, http.StatusOK, okAnswer{true})
}
