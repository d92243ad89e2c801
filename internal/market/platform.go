package market

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"gondola"
)

// all calls every worker at once and returns their errors, each with the worker's name.
func all(ws []Worker, call func(w Worker) error) error {
	errs := make([]error, len(ws))
	var wg sync.WaitGroup
	for i, w := range ws {
		wg.Go(func() {
			if err := call(w); err != nil {
				errs[i] = named(w.Name, err)
			}
		})
	}
	wg.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	var e *gondola.Error
	if errors.As(errs[0], &e) { // one kind for the caller to branch on, every text for the reader
		return gondola.Errorf(e.Kind, "%w", errors.Join(errs...))
	}
	return errors.Join(errs...)
}

func named(worker gondola.WorkerName, err error) error {
	var e *gondola.Error
	if errors.As(err, &e) {
		return &gondola.Error{Kind: e.Kind, Message: "worker " + string(worker) + ": " + err.Error(), Refusals: e.Refusals}
	}
	return fmt.Errorf("worker %s: %w", worker, err)
}

// SetServices implements gondola.Services: on all workers at once. One that does not answer gets them when it does again (Run).
func (m *Market) SetServices(ctx context.Context, network string, services []gondola.VirtualService) error {
	m.mu.Lock()
	m.services[network] = slices.Clone(services)
	m.mu.Unlock()
	ws, _ := m.current()
	return all(ws, func(w Worker) error {
		err := m.bringServicesOf(ctx, w, network)
		if errors.Is(err, gondola.ErrUnavailable) {
			m.log.Warn("virtual services wait for a worker", "worker", w.Name, "network", network, "err", err)
			return nil
		}
		return err
	})
}

// Entrances implements gondola.Services: of every host that answers.
func (m *Market) Entrances(ctx context.Context) ([]gondola.Entrance, error) {
	var mu sync.Mutex
	out := []gondola.Entrance{}
	err := all(m.stores(), func(w Worker) error {
		e, err := w.Entrances(ctx)
		if errors.Is(err, gondola.ErrUnavailable) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		out = append(out, e...)
		return err
	})
	slices.SortFunc(out, func(a, b gondola.Entrance) int { return strings.Compare(string(a.Worker), string(b.Worker)) })
	return out, err
}

// bringServices gives a worker what was set while it was away.
func (m *Market) bringServices(ctx context.Context, w Worker) {
	m.mu.RLock()
	networks := slices.Collect(maps.Keys(m.services))
	m.mu.RUnlock()
	for _, n := range networks {
		if err := m.bringServicesOf(ctx, w, n); err != nil && ctx.Err() == nil {
			m.log.Warn("bring virtual services to a worker", "worker", w.Name, "network", n, "err", err)
		}
	}
}

// bringServicesOf gives a worker what is set when its turn has come, as bringPolicy does.
func (m *Market) bringServicesOf(ctx context.Context, w Worker, network string) error {
	unlock, err := m.locks.alone(ctx, fmt.Sprintf("the set of services of network %s at worker %s", network, w.Name))
	if err != nil {
		return err
	}
	defer unlock()
	m.mu.RLock()
	services := m.services[network]
	m.mu.RUnlock()
	return w.SetServices(ctx, network, services)
}

// stores returns one worker for each image store.
func (m *Market) stores() (out []Worker) {
	ws, _ := m.current()
	for _, w := range ws {
		shared := w.Host != "" && slices.ContainsFunc(out, func(o Worker) bool { return o.Host == w.Host })
		if !shared {
			out = append(out, w)
		}
	}
	return out
}

// ImportImage implements gondola.Images: into the store of every host.
func (m *Market) ImportImage(ctx context.Context, archive io.Reader, reference string) ([]gondola.ImageInfo, error) {
	ws := m.stores()
	if len(ws) == 0 {
		return nil, gondola.Errorf(gondola.ErrUnavailable, "import an image: there are no workers")
	}
	if len(ws) == 1 {
		images, err := ws[0].ImportImage(ctx, archive, reference)
		return labelled(images, ws[0].Name), err
	}
	// The archive can be read once; every worker reads the copy.
	f, err := os.CreateTemp("", "gondola-import-*")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	size, err := io.Copy(f, archive)
	if err != nil {
		return nil, err
	}
	return collect(ws, func(w Worker) ([]gondola.ImageInfo, error) {
		return w.ImportImage(ctx, io.NewSectionReader(f, 0, size), reference)
	})
}

// ListImages implements gondola.Images.
func (m *Market) ListImages(ctx context.Context) ([]gondola.ImageInfo, error) {
	return collect(m.stores(), func(w Worker) ([]gondola.ImageInfo, error) { return w.ListImages(ctx) })
}

// PruneImages implements gondola.Images. Of workers that share a store one is asked: the store knows what the others use.
func (m *Market) PruneImages(ctx context.Context) (freed int64, err error) {
	var mu sync.Mutex
	err = all(m.stores(), func(w Worker) error {
		n, err := w.PruneImages(ctx)
		mu.Lock()
		defer mu.Unlock()
		freed += n
		return err
	})
	return freed, err
}

// collect gathers the images of workers.
func collect(ws []Worker, call func(w Worker) ([]gondola.ImageInfo, error)) ([]gondola.ImageInfo, error) {
	var mu sync.Mutex
	out := []gondola.ImageInfo{}
	err := all(ws, func(w Worker) error {
		images, err := call(w)
		mu.Lock()
		defer mu.Unlock()
		out = append(out, labelled(images, w.Name)...)
		return err
	})
	slices.SortFunc(out, func(a, b gondola.ImageInfo) int {
		if d := strings.Compare(a.Reference, b.Reference); d != 0 {
			return d
		}
		return strings.Compare(string(a.Worker), string(b.Worker))
	})
	return out, err
}

// labelled says which worker has the images.
func labelled(images []gondola.ImageInfo, worker gondola.WorkerName) []gondola.ImageInfo {
	for i := range images {
		images[i].Worker = worker
	}
	return images
}
