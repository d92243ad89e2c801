package kube

import (
	"context"
	"time"

	"gondola"
	"gondola/internal/kube/provider"
	"gondola/internal/kube/storage"
)

// runStorage gives claims their Volumes. What it needs of Kubernetes' objects is put there first; a cluster is ready without them, since the
// API server takes a while to serve what custom resources define.
func (c *Cluster) runStorage(ctx context.Context, p *provider.Provider, bootstrapped <-chan struct{}) error {
	if p == nil {
		return nil
	}
	regions := map[string]gondola.Region{}
	for _, n := range c.cfg.Nodes {
		regions[n.Name] = n.Region
	}
	s, err := storage.New(storage.Config{Cluster: c.cfg.Name, Regions: regions, REST: c.rest(storageClient),
		Volumes: c.cfg.Platform, Apps: p, Room: c.market.room, Log: c.log})
	if err != nil {
		return err
	}
	if !received(ctx, bootstrapped) {
		return nil
	}
	if err := c.answered(ctx, storageClient, "/api/v1/persistentvolumes?limit=1"); err != nil {
		return nil
	}
	install := func(ctx context.Context) error { return storage.Install(ctx, c.rest(adminClient)) }
	if err := retry(ctx, 200*time.Millisecond, install); err != nil {
		return nil
	}
	return part(s.Run).until(ctx, "storage")
}
