package api

import (
	"net/http"

	"gondola"
	"gondola/internal/auth"
)

func (a *API) createApp(c *call) error {
	var body newApp
	if err := c.decode(&body); err != nil {
		return err
	}
	if body.Name == "" {
		body.Name = body.AppName
	}
	if body.Org == "" {
		body.Org = c.who.Org()
	}
	if err := a.permitOn(c, makesApps, auth.Target{Org: body.Org}); err != nil {
		return err
	}
	app, err := a.apps.CreateApp(c.ctx(), body.NewApp)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, madeApp{app, app.CreatedAt.UnixMilli()})
}

func (a *API) getApp(c *call) error {
	app, err := a.apps.App(c.ctx(), c.app())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, app)
}

func (a *API) listApps(c *call) error {
	all, err := a.apps.ListApps(c.ctx(), c.query("org_slug"))
	if err != nil {
		return err
	}
	apps := []gondola.App{}
	for _, app := range all {
		if c.who.ListsApp(app) {
			apps = append(apps, app)
		}
	}
	total := len(apps)
	apps, next, err := page(c, apps, func(app gondola.App) place { return place{id: string(app.Name)} })
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, appList{apps, next, total})
}

func (a *API) deleteApp(c *call) error {
	if err := a.apps.DeleteApp(c.ctx(), c.app()); err != nil {
		return err
	}
	return c.send(http.StatusAccepted, okAnswer{true})
}
