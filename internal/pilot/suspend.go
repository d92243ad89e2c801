package pilot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"gondola"
	"gondola/internal/failpoint"
)

// errSuspend is why the containers' goroutines end when the Machine is to be suspended.
var errSuspend = errors.New("the machine is being suspended")

// Suspend implements API.
func (s *Supervisor) Suspend(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.askSuspend(); err != nil {
		return err
	}
	var phase Phase
	s.ledger.await(ctx.Done(), func() bool { phase = s.phase(); return phase != Suspending })
	switch {
	case phase == Suspended:
		return nil
	case phase == Suspending && ctx.Err() != nil:
		return gondola.Errorf(gondola.ErrDeadline, "machine %s is still being suspended: %w", s.spec.Machine, ctx.Err())
	case phase == Suspending:
		return ErrGone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return gondola.Errorf(gondola.ErrPrecondition, "machine %s cannot be suspended: %s", s.spec.Machine, cmp.Or(s.unsuspended, "its sandbox has ended"))
}

// askSuspend records that the Machine is to be suspended.
func (s *Supervisor) askSuspend() error {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	switch phase := s.ledger.phase; phase {
	case Suspending, Suspended:
		return nil
	case Running:
	case Booting, Resuming, Ending, Ended, Failed, Lost:
		return gondola.Errorf(gondola.ErrPrecondition, "machine %s is %s: it can be suspended while it runs", s.spec.Machine, phase)
	}
	if _, err := s.aliveLocked(); err != nil {
		return err
	}
	s.ledger.commitLocked(entry{Phase: Suspending}, true)
	failpoint.Hit("pilot.suspend.recorded")
	select {
	case s.suspending <- struct{}{}:
	default:
	}
	return nil
}

// aliveLocked returns the containers that a snapshot would be of, and their images; an error if there can be none now.
func (s *Supervisor) aliveLocked() (trees map[string]string, err error) {
	trees = map[string]string{}
	for _, r := range s.ledger.containers {
		running := r.Status.State.Kind == gondola.ContainerRunning
		switch {
		case r.Begun && r.Status.Ephemeral:
			return nil, gondola.Errorf(gondola.ErrPrecondition, "ephemeral container %s runs, which a suspended machine cannot have: let it end first", r.Status.Name)
		case r.Begun && !running:
			return nil, gondola.Errorf(gondola.ErrPrecondition, "container %s is being started: try again", r.Status.Name)
		case r.Begun:
			trees[r.Status.Name] = s.tree(r.Status.Name)
		}
	}
	if len(trees) == 0 {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "no container of machine %s runs", s.spec.Machine)
	}
	return trees, nil
}

// tree is the image of a container of the Spec.
func (s *Supervisor) tree(name string) string {
	for i := range s.spec.Containers {
		if s.spec.Containers[i].Name == name {
			return s.spec.Containers[i].Tree
		}
	}
	return ""
}

// suspend writes the snapshot, unless an earlier pilot has, and says whether there is one. If not, the Machine goes on. Nobody supervises its
// containers meanwhile.
func (s *Supervisor) suspend(ctx context.Context) bool {
	s.mu.Lock()
	s.unsuspended = ""
	s.mu.Unlock()
	s.visitors.close()
	defer s.visitors.open()
	err := s.checkpoint(ctx)
	if err == nil {
		s.letGo()
		return true
	}
	if ctx.Err() != nil {
		return false // the next pilot goes on with it
	}
	s.log.Warn("the machine cannot be suspended", "err", err)
	if e := DiscardSnapshot(s.spec.Dir); e != nil {
		s.log.Error("what there is of a snapshot cannot be removed", "err", e)
	}
	s.mu.Lock()
	s.unsuspended = err.Error()
	s.mu.Unlock()
	s.ledger.commit(entry{Phase: Running, Notes: []gondola.Note{{Warning: true, Reason: "SuspendFailed", Message: err.Error()}}})
	return false
}

// letGo lets go of the streams of containers that stand still for good.
func (s *Supervisor) letGo() {
	s.mu.Lock()
	kept := s.kept
	s.consoles, s.kept = map[string]*console{}, map[string]*console{}
	s.mu.Unlock()
	for _, con := range kept {
		con.close()
	}
}

func (s *Supervisor) checkpoint(ctx context.Context) error {
	if HasSnapshot(s.spec.Dir) {
		return nil
	}
	s.ledger.mu.Lock()
	trees, err := s.aliveLocked()
	s.ledger.mu.Unlock()
	if err != nil {
		return err
	}
	dir, err := makeSnapshot(s.spec.Dir)
	if err != nil {
		return err
	}
	failpoint.Hit("pilot.suspend.begun")
	return s.rt.Checkpoint(ctx, dir, func() error {
		err := commitSnapshot(s.spec.Dir, manifest{Version: s.spec.Version, At: time.Now(), Containers: trees}, !s.volatile)
		if err != nil {
			err = errors.Join(err, DiscardSnapshot(s.spec.Dir)) // before anything runs again
		}
		return err
	})
}

// resume makes the Machine run on from its snapshot. If that cannot be, the snapshot is discarded, and ok is false: it starts from the
// beginning, and tells why.
func (s *Supervisor) resume(ctx context.Context) (ok bool, err error) {
	m, err := readSnapshot(s.spec)
	if err == nil {
		err = s.restore(ctx, m)
	}
	if err == nil {
		failpoint.Hit("pilot.resume.made")
		s.ledger.resumed()
		failpoint.Hit("pilot.resume.recorded")
		err := DiscardSnapshot(s.spec.Dir)
		failpoint.Hit("pilot.resume.discarded")
		return true, err
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return false, s.startCold(ctx, err)
}

// startCold clears the way for a start from the beginning in place of a resume.
func (s *Supervisor) startCold(ctx context.Context, why error) error {
	s.log.Warn("the machine cannot be resumed and starts from the beginning", "err", why)
	if err := DiscardSnapshot(s.spec.Dir); err != nil {
		return err
	}
	if err := s.rt.Destroy(ctx, s.spec); err != nil {
		return err
	}
	if err := s.ledger.begin(s.spec, true); err != nil {
		return err
	}
	s.cold = why.Error()
	s.ledger.note(true, "", "ResumeFailed", "The snapshot cannot be resumed, the machine starts from the beginning: "+why.Error())
	failpoint.Hit("pilot.resume.cold")
	return nil
}

func (s *Supervisor) restore(ctx context.Context, m manifest) (err error) {
	consoles := map[string]*console{}
	defer func() {
		for _, con := range consoles {
			if err != nil {
				con.close()
			} else {
				con.started()
			}
		}
		if err == nil {
			s.kept = consoles
		}
	}()
	var runs []Run
	for i := range s.spec.Containers {
		c := &s.spec.Containers[i]
		rec := s.ledger.container(c.Name)
		if !rec.Begun {
			continue
		}
		run, err := s.prepareRun(c, rec.run())
		if err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
		if consoles[c.Name], err = s.openConsole(c, &run); err != nil {
			delete(consoles, c.Name)
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
		s.mu.Lock()
		s.environ[c.Name] = run.Env
		s.mu.Unlock()
		runs = append(runs, run)
	}
	if len(runs) != len(m.Containers) {
		return fmt.Errorf("it is of %d containers, of which %d ran", len(m.Containers), len(runs))
	}
	return s.rt.Restore(ctx, s.spec, snapshotPath(s.spec.Dir), runs, func() error {
		s.ledger.commit(entry{Phase: Resuming})
		return beginSnapshot(s.spec.Dir)
	})
}

// resumed records that the sandbox runs on, with its containers as they were.
func (l *ledger) resumed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	box := l.sandbox
	box.Resumed, box.Cold = true, ""
	l.commitLocked(entry{Phase: Running, Sandbox: &box, Notes: []gondola.Note{{Reason: "Resumed", Message: "The machine runs on from its snapshot."}}}, true)
}
