package client

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"time"

	"gondola"
)

// CreateApp implements gondola.Apps.
func (c *Client) CreateApp(ctx context.Context, app gondola.NewApp) (gondola.App, error) {
	if err := c.do(ctx, "POST", path("apps"), nil, app, nil); err != nil {
		return gondola.App{}, err
	}
	// Fly.io's answer has but an id, and for a while after it a new App is unknown there, or its token does not reach it.
	var made gondola.App
	within, cancel := context.WithTimeout(ctx, newAppPatience)
	defer cancel()
	err := c.again(within, func(err error) bool {
		return errors.Is(err, gondola.ErrNotFound) || errors.Is(err, gondola.ErrUnauthorized)
	}, -1, func() (err error) {
		made, err = c.App(ctx, app.Name)
		return err
	})
	return made, err
}

// newAppPatience bounds the wait for a new App.
const newAppPatience = 10 * time.Second

// App implements gondola.Apps.
func (c *Client) App(ctx context.Context, name gondola.AppName) (app gondola.App, err error) {
	err = c.do(ctx, "GET", path("apps", string(name)), nil, nil, &app)
	return app, err
}

// ListApps implements gondola.Apps.
func (c *Client) ListApps(ctx context.Context, org string) ([]gondola.App, error) {
	q := url.Values{}
	if org != "" {
		q.Set("org_slug", org)
	}
	all := []gondola.App{}
	type appList struct {
		Apps []gondola.App `json:"apps"`
		Next string        `json:"next_cursor"`
	}
	err := pages(ctx, c, path("apps"), q, func(page appList) (string, int) {
		all = append(all, page.Apps...)
		return page.Next, len(page.Apps)
	})
	return all, err
}

// DeleteApp implements gondola.Apps.
func (c *Client) DeleteApp(ctx context.Context, name gondola.AppName) error {
	return c.do(ctx, "DELETE", path("apps", string(name)), nil, nil, nil)
}

// Ask implements gondola.Bidder.
func (c *Client) Ask(ctx context.Context, ask gondola.Ask) (a gondola.Auction, err error) {
	err = c.repeat(ctx, "POST", ext("ask"), nil, ask, &a)
	return a, err
}

// Placements implements gondola.Market.
func (c *Client) Placements(ctx context.Context, req gondola.PlacementsRequest) ([]gondola.Placement, error) {
	if req.Org == "" {
		req.Org = gondola.Org
	}
	var list struct {
		Regions []gondola.Placement `json:"regions"`
	}
	err := c.repeat(ctx, "POST", path("platform", "placements"), nil, req, &list)
	return list.Regions, err
}

// Regions implements gondola.Market; the nearest comes first.
func (c *Client) Regions(ctx context.Context) ([]gondola.RegionInfo, error) {
	var list struct {
		Regions []gondola.RegionInfo `json:"Regions"`
		Nearest gondola.Region       `json:"Nearest"`
	}
	err := c.do(ctx, "GET", path("platform", "regions"), nil, nil, &list)
	slices.SortStableFunc(list.Regions, func(a, b gondola.RegionInfo) int {
		switch {
		case a.Code == list.Nearest && b.Code != list.Nearest:
			return -1
		case b.Code == list.Nearest && a.Code != list.Nearest:
			return 1
		}
		return 0
	})
	return list.Regions, err
}

// PutPayload implements gondola.Files.
func (c *Client) PutPayload(ctx context.Context, ref gondola.Ref, p gondola.Payload) error {
	return c.repeat(ctx, "PUT", extMachine(ref, "payload"), nil, p, nil)
}

// SetServices implements gondola.Services.
func (c *Client) SetServices(ctx context.Context, network string, services []gondola.VirtualService) error {
	if services == nil {
		services = []gondola.VirtualService{}
	}
	if network == "" {
		return errors.New("SetServices: the network has no name")
	}
	return c.repeat(ctx, "PUT", ext("networks", network, "services"), nil, services, nil)
}

// Entrances implements gondola.Services.
func (c *Client) Entrances(ctx context.Context) (list []gondola.Entrance, err error) {
	return list, c.do(ctx, "GET", ext("entrances"), nil, nil, &list)
}
