package worker

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"time"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

const (
	heartbeat    = 10 * time.Second
	collectEvery = time.Minute
	keepRecord   = 48 * time.Hour // of a destroyed Machine
	keepRecords  = 20000          // at most
)

// heartbeatLoop tells watchers that the worker is there.
func (w *Worker) heartbeatLoop(ctx context.Context) {
	w.imagesChanged(ctx)
	w.checkPressure(ctx)
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.hub.heartbeat(w.cfg.Name)
			w.checkPressure(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// collectLoop removes what nobody needs: at once what a crash left on the host, then every minute.
func (w *Worker) collectLoop(ctx context.Context) {
	for {
		if err := w.collect(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("collection is not complete; tried again in a minute", "err", err)
		}
		if !pause(ctx, collectEvery) {
			return
		}
	}
}

// collect does one round of it.
func (w *Worker) collect(ctx context.Context) error {
	_, err := w.store.Collect(ctx, time.Now().Add(-keepRecord), keepRecords)
	err = errors.Join(err, w.collectLeftovers(ctx), w.collectVolumes(ctx))
	var fs syscall.Statfs_t
	if e := syscall.Statfs(w.cfg.Dir, &fs); e != nil {
		return errors.Join(err, e)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < w.cfg.KeepImages {
		freed, e := w.PruneImages(ctx)
		if errors.Is(e, gondola.ErrConflict) {
			return err // while images are being pulled; there is another minute
		}
		w.log.Info("pruned unused images, the disk is nearly full", "free", free, "freed", freed)
		err = errors.Join(err, e)
	}
	return err
}

// collectLeftovers ends and releases what is on the host of Machines that are not on record.
func (w *Worker) collectLeftovers(ctx context.Context) error {
	ids, err := w.cfg.Host.Leftovers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if w.isHere(id) {
			continue
		}
		w.log.Info("removing what a machine that is not on record left", "machine", id)
		errs = append(errs, w.removeLeftover(ctx, id))
	}
	return errors.Join(errs...)
}

func (w *Worker) isHere(id gondola.MachineID) bool { return w.lookup(gondola.Ref{ID: id}) != nil }

// removeLeftover undoes what is left of one Machine. Where its directories are is what Prepare says, which is made again for that.
func (w *Worker) removeLeftover(ctx context.Context, id gondola.MachineID) error {
	p, err := w.cfg.Host.Prepare(ctx, HostMachine{ID: id, Number: leftoverNumber, Network: gondola.DefaultNetwork}, false)
	if err != nil {
		return err // it may be another worker's
	}
	spec := pilot.Spec{Machine: id, Instance: w.cfg.Instance, Dir: p.Dir, RunDir: p.RunDir, Socket: p.Socket, NetNS: p.NetNS, Cgroup: p.Cgroup}
	for _, d := range w.cfg.Drivers {
		if err := d.Kill(ctx, spec); err != nil {
			return err
		}
	}
	failpoint.Hit("worker.collect.killed")
	return w.cfg.Host.Release(ctx, id, true)
}

// ImportImage puts the images of an archive into the host's store.
func (w *Worker) ImportImage(ctx context.Context, archive io.Reader, reference string) ([]gondola.ImageInfo, error) {
	infos, err := w.cfg.Host.ImportImage(ctx, archive, reference)
	if err == nil {
		w.imagesChanged(ctx)
	}
	return w.signed(infos), err
}

// ListImages lists the images of the host's store.
func (w *Worker) ListImages(ctx context.Context) ([]gondola.ImageInfo, error) {
	infos, err := w.cfg.Host.ListImages(ctx)
	return w.signed(infos), err
}

func (w *Worker) signed(infos []gondola.ImageInfo) []gondola.ImageInfo {
	out := make([]gondola.ImageInfo, len(infos))
	for i, info := range infos {
		out[i] = info
		out[i].Worker = w.cfg.Name
	}
	return out
}

// PruneImages removes the images that no Machine uses, stopped ones included. ErrConflict while images are being pulled, by any worker of the host.
func (w *Worker) PruneImages(ctx context.Context) (int64, error) {
	freed, err := w.cfg.Host.Pins().prune(func(inUse map[string]bool) (int64, error) {
		rows, err := w.store.Machines(ctx)
		if err != nil {
			return 0, err
		}
		for _, row := range rows {
			m, err := newMachine(w, row, nil)
			if err != nil {
				return 0, err
			}
			for _, d := range m.rec.Digests {
				inUse[d] = true
			}
		}
		return w.cfg.Host.PruneImages(ctx, inUse)
	})
	if errors.Is(err, errPulling) {
		return 0, gondola.Errorf(gondola.ErrConflict, "images on the host of worker %s are being pulled: try again when that is done", w.cfg.Name)
	}
	w.imagesChanged(ctx)
	return freed, err
}

// imagesChanged reads which images there are, for the offer.
func (w *Worker) imagesChanged(ctx context.Context) {
	infos, err := w.cfg.Host.ListImages(ctx)
	if err != nil {
		w.log.Warn("images cannot be listed for the offer", "err", err)
		return
	}
	var refs []string
	for _, info := range infos {
		refs = append(refs, info.Reference)
	}
	slices.Sort(refs)
	if old := w.images.Load(); old != nil && slices.Equal(*old, refs) {
		return
	}
	w.images.Store(&refs)
	w.offerChanged()
}
