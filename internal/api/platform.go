package api

import (
	"net/http"

	"gondola"
)

func (a *API) placements(c *call) error {
	var req gondola.PlacementsRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	got, err := a.market.Placements(c.ctx(), req)
	if err != nil {
		return err
	}
	if got == nil {
		got = []gondola.Placement{}
	}
	return c.send(http.StatusOK, placementList{got})
}

func (a *API) regions(c *call) error {
	regions, err := a.market.Regions(c.ctx())
	if err != nil {
		return err
	}
	out := regionList{Regions: regions}
	if out.Regions == nil {
		out.Regions = []gondola.RegionInfo{}
	}
	if len(regions) > 0 {
		out.Nearest = regions[0].Code
	}
	return c.send(http.StatusOK, out)
}
