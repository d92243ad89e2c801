package client

import (
	"context"
	"net/url"

	"gondola"
)

// Stats implements gondola.Stats.
func (c *Client) Stats(ctx context.Context, req gondola.StatsRequest) (out []gondola.WorkerStats, err error) {
	q := url.Values{}
	for key, value := range map[string]string{"region": string(req.Region), "app": string(req.Ref.App), "machine": string(req.Ref.ID)} {
		if value != "" {
			q.Set(key, value)
		}
	}
	for k, v := range req.Metadata {
		q.Set("metadata."+k, v)
	}
	if req.HostOnly {
		q.Set("host_only", "true")
	}
	err = c.do(ctx, "GET", ext("stats"), q, nil, &out)
	return out, err
}
