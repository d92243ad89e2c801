package worker

import (
	"context"
	"errors"

	"gondola"
)

// checkPressure looks how the host does, and tells those who watch offers when pressure comes or goes. Under disk pressure images that no
// Machine uses go first; who else has to go is not for a worker to say.
func (w *Worker) checkPressure(ctx context.Context) {
	now := w.cfg.Host.Stats().Pressure()
	if now.Disk {
		freed, err := w.PruneImages(ctx)
		switch {
		case errors.Is(err, gondola.ErrConflict): // while images are being pulled
		case err != nil && ctx.Err() == nil:
			w.log.Warn("unused images cannot be pruned", "err", err)
		case freed > 0:
			w.log.Info("pruned unused images: the disk is nearly full", "freed", freed)
			now = w.cfg.Host.Stats().Pressure()
		}
	}
	was := w.pressure.Swap(&now)
	if was == nil {
		was = &gondola.Pressure{}
	}
	if now != *was {
		w.log.Info("pressure on the host has changed", "memory", now.Memory, "disk", now.Disk, "pids", now.PIDs)
		w.offerChanged()
	}
}

// hostInfo is what the offer tells of the host.
func (w *Worker) hostInfo() *gondola.HostInfo {
	info := w.cfg.Host.Info()
	info.MaxMachines = maxNumber
	d := w.cfg.Drivers[w.cfg.DefaultDriver]
	info.Runtime = d.Name() + "://unknown"
	if v, ok := d.(interface{ Version() string }); ok {
		info.Runtime = d.Name() + "://" + v.Version()
	}
	if p := w.pressure.Load(); p != nil {
		info.Pressure = *p
	}
	return &info
}
