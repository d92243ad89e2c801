package worker_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"gondola"
	"gondola/internal/worker"
)

// strict is a Host that prepares only Machines by which policies can tell whom they isolate.
type strict struct {
	worker.Host
	described func(gondola.MachineID) (gondola.PolicySubject, bool)
	mu        sync.Mutex
	early     []gondola.MachineID
}

func (s *strict) Prepare(ctx context.Context, m worker.HostMachine, fresh bool) (worker.Prepared, error) {
	if _, ok := s.described(m.ID); !ok {
		s.mu.Lock()
		s.early = append(s.early, m.ID)
		s.mu.Unlock()
	}
	return s.Host.Prepare(ctx, m, fresh)
}

func TestPolicies_KnowAMachineBeforeItHasANetworkAndAsItChanges(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 2000, MemoryBytes: 4 << 30})
	host := &strict{Host: r.fake, described: r.fake.Described}
	r.host = host
	w, stop := r.run()
	c := longRunning()
	c.Metadata = map[string]string{"role": "web"}
	m := r.create(w, gondola.CreateRequest{Config: c})
	r.await(w, m.ID, gondola.Started)
	role := func(want string) {
		t.Helper()
		if got, _ := r.fake.Described(m.ID); got.App != app || got.Metadata["role"] != want {
			t.Errorf("policies know the machine as %+v, want role %s of app %s", got, want, app)
		}
	}
	role("web")
	v := "db"
	if err := w.SetMetadata(t.Context(), m.Ref(), "", map[string]*string{"role": &v}); err != nil {
		t.Fatal(err)
	}
	role("db")

	// Another process knows before it does anything, the machine that runs on too.
	stop()
	if err := r.fake.Describe(t.Context(), gondola.PolicySubject{ID: m.ID}); err != nil {
		t.Fatal(err)
	}
	w = r.open()
	defer w.Close()
	role("db")
	if len(host.early) > 0 {
		t.Errorf("machines %v had a network before policies knew them", host.early)
	}
}

// overruled is a Host that cannot carry out the policies of any Machine.
type overruled struct{ worker.Host }

func (overruled) Describe(context.Context, gondola.PolicySubject) error {
	return errors.New("the kernel does not take these rules")
}

func TestPolicies_ThatCannotBeCarriedOutKeepNoWorkerDown(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 2000, MemoryBytes: 4 << 30})
	w, stop := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning()})
	r.await(w, m.ID, gondola.Started)
	stop()
	r.host = overruled{r.fake}
	w, _ = r.run()
	r.await(w, m.ID, gondola.Started)
}
