package worker_test

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gondola"
	"gondola/internal/worker"
)

func TestWait_EndsWhenTheMachineIsDestroyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{})
		w, stop := r.run()
		defer stop()
		m := r.create(w, gondola.CreateRequest{Config: longRunning(), SkipLaunch: true})
		ended, began := make(chan error, 1), time.Now()
		go func() {
			_, err := w.Wait(t.Context(), m.Ref(), gondola.WaitRequest{})
			ended <- err
		}()
		synctest.Wait()
		if err := w.Destroy(t.Context(), m.Ref(), false); err != nil {
			t.Fatal(err)
		}
		err := <-ended
		if !errors.Is(err, gondola.ErrPrecondition) || err.Error() != "machine failed to reach desired state, started, currently destroyed" || time.Since(began) > time.Second {
			t.Errorf("Wait for started = %v after %s, want ErrPrecondition at once", err, time.Since(began))
		}
	})
}

// between is a Host that is asked for its addresses when a change of a Machine is on record and nobody has been told of it.
type between struct {
	worker.Host
	now atomic.Pointer[func()]
}

func (h *between) IPs() []netip.Addr {
	if now := h.now.Load(); now != nil {
		(*now)()
	}
	return h.Host.IPs()
}

func TestList_HasAMachineOnceWhileItIsDestroyed(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	host := &between{Host: r.fake}
	r.host = host
	w, _ := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning(), SkipLaunch: true})
	var states []gondola.State
	var mu sync.Mutex
	look := func() {
		if !mu.TryLock() {
			return // it is the list below that asks
		}
		defer mu.Unlock()
		all, err := w.List(t.Context(), app, gondola.ListFilter{IncludeDeleted: true})
		if err != nil || len(all) != 1 {
			t.Errorf("List = %d machines, %v; want the one", len(all), err)
		}
		states = append(states, all[len(all)-1].State)
	}
	host.now.Store(&look)
	if err := w.Destroy(t.Context(), m.Ref(), false); err != nil {
		t.Fatal(err)
	}
	r.await(w, m.ID, gondola.Destroyed)
	mu.Lock()
	defer mu.Unlock()
	if last := states[len(states)-1]; last != gondola.Destroyed {
		t.Errorf("the list says last that it is %s: %v", last, states)
	}
}
