package client

import (
	"context"

	"gondola"
)

func volume(ref gondola.VolumeRef, more ...string) string {
	return path(append([]string{"apps", string(ref.App), "volumes", string(ref.ID)}, more...)...)
}

// CreateVolume implements gondola.Volumes.
func (c *Client) CreateVolume(ctx context.Context, app gondola.AppName, req gondola.CreateVolumeRequest) (v gondola.Volume, err error) {
	err = c.do(ctx, "POST", path("apps", string(app), "volumes"), nil, req, &v)
	return ofApp(app, v), err
}

// Volume implements gondola.Volumes.
func (c *Client) Volume(ctx context.Context, ref gondola.VolumeRef) (v gondola.Volume, err error) {
	err = c.do(ctx, "GET", volume(ref), nil, nil, &v)
	return ofApp(ref.App, v), err
}

// ListVolumes implements gondola.Volumes.
func (c *Client) ListVolumes(ctx context.Context, app gondola.AppName) ([]gondola.Volume, error) {
	all := []gondola.Volume{}
	if app != "" {
		err := pages(ctx, c, path("apps", string(app), "volumes"), nil, func(page []gondola.Volume) (string, int) {
			for _, v := range page {
				all = append(all, ofApp(app, v))
			}
			return "", len(page)
		})
		return all, err
	}
	type orgVolumes struct {
		Volumes []gondola.Volume `json:"volumes"`
		Next    string           `json:"next_cursor"`
	}
	err := pages(ctx, c, path("orgs", c.org, "volumes"), nil, func(page orgVolumes) (string, int) {
		all = append(all, page.Volumes...)
		return page.Next, len(page.Volumes)
	})
	return all, err
}

// ofApp returns the Volume with its App, which Fly.io's API tells only where all of an organisation are listed.
func ofApp(app gondola.AppName, v gondola.Volume) gondola.Volume {
	if v.App == "" && v.ID != "" {
		v.App = app
	}
	return v
}

// UpdateVolume implements gondola.Volumes.
func (c *Client) UpdateVolume(ctx context.Context, ref gondola.VolumeRef, req gondola.UpdateVolumeRequest) (v gondola.Volume, err error) {
	err = c.do(ctx, "PUT", volume(ref), nil, req, &v)
	return ofApp(ref.App, v), err
}

// ExtendVolume implements gondola.Volumes.
func (c *Client) ExtendVolume(ctx context.Context, ref gondola.VolumeRef, sizeGB int) (out gondola.ExtendVolumeResponse, err error) {
	err = c.do(ctx, "PUT", volume(ref, "extend"), nil, map[string]int{"size_gb": sizeGB}, &out)
	out.Volume = ofApp(ref.App, out.Volume)
	return out, err
}

// DeleteVolume implements gondola.Volumes.
func (c *Client) DeleteVolume(ctx context.Context, ref gondola.VolumeRef) (v gondola.Volume, err error) {
	err = c.repeat(ctx, "DELETE", volume(ref), nil, nil, &v)
	return ofApp(ref.App, v), err
}

// RecoverVolume implements gondola.Volumes.
func (c *Client) RecoverVolume(ctx context.Context, ref gondola.VolumeRef) (v gondola.Volume, err error) {
	err = c.do(ctx, "POST", ext("apps", string(ref.App), "volumes", string(ref.ID), "recover"), nil, nil, &v)
	return v, err
}

// PurgeVolume implements gondola.Volumes.
func (c *Client) PurgeVolume(ctx context.Context, ref gondola.VolumeRef) (v gondola.Volume, err error) {
	err = c.do(ctx, "DELETE", ext("apps", string(ref.App), "volumes", string(ref.ID)), nil, nil, &v)
	return v, err
}

// SnapshotVolume implements gondola.Volumes.
func (c *Client) SnapshotVolume(ctx context.Context, ref gondola.VolumeRef, id string) (s gondola.VolumeSnapshot, err error) {
	var body any // Fly.io's has none
	if id != "" {
		body = map[string]string{"id": id}
	}
	err = c.do(ctx, "POST", volume(ref, "snapshots"), nil, body, &s)
	return s, err
}

// ListSnapshots implements gondola.Volumes.
func (c *Client) ListSnapshots(ctx context.Context, ref gondola.VolumeRef) (ss []gondola.VolumeSnapshot, err error) {
	p := volume(ref, "snapshots")
	if ref.ID == "" {
		p = ext("apps", string(ref.App), "snapshots")
	}
	err = c.do(ctx, "GET", p, nil, nil, &ss)
	return ss, err
}

// DeleteSnapshot implements gondola.Volumes. Without an id in ref it is found by its own.
func (c *Client) DeleteSnapshot(ctx context.Context, ref gondola.VolumeRef, id string) error {
	of := string(ref.ID)
	if of == "" {
		of = "-"
	}
	return c.do(ctx, "DELETE", ext("apps", string(ref.App), "volumes", of, "snapshots", id), nil, nil, nil)
}
