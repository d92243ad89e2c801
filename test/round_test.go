package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// recovery is how long all may take to be as it has to be, once a daemon is up again or a pilot has died.
	recovery = 5 * time.Second
	// lostAfter is when what is not right is taken for lost, and not for late.
	lostAfter = 30 * time.Second
)

// round is a trial under way.
type round struct {
	*crashed
	trial
	op       operation
	out      *outcome
	died, up time.Time // the last kill; since when recovery counts
	struck   bool      // the second kill is done
	dead     bool      // the daemon was killed and has not been started again yet
	logged   int64     // of the daemon's log before
}

// try does a trial. It is not reached where the operation has fewer hits.
func (c *crashed) try(t trial) outcome {
	began := time.Now()
	r := &round{crashed: c, trial: t, op: operations[t.Operation], out: &outcome{trial: t}, logged: c.logSize()}
	c.kept, c.ids, c.driver = false, newIDs(), ""
	if r.op.setup != nil {
		if err := r.op.setup(c); err != nil {
			c.t.Fatalf("prepare %q: %v", t.Operation, err)
		}
	}
	c.arm(fmt.Sprintf("%s=%d", t.Point, t.Hit))
	asked := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
		defer cancel()
		asked <- r.op.act(c, ctx)
	}()
	if r.reaches(asked) {
		r.out.Reached, r.out.Kills, r.died = true, 1, time.Now()
		r.recover(asked)
	} else {
		r.giveUp(asked)
	}
	r.clear()
	r.out.Load = load()
	c.t.Logf("%s: %d kills, right after %s, round %s, load %s", t, r.out.Kills, r.out.Took.Round(time.Millisecond),
		time.Since(began).Round(time.Millisecond), r.out.Load)
	return *r.out
}

// reaches waits until the point was reached; for a later hit than the first, until it will not be any more.
func (r *round) reaches(asked chan error) bool {
	began, right := time.Now(), time.Time{}
	for ; ; pause(5 * time.Millisecond) {
		if r.wasHit() {
			return true
		}
		if r.Hit == 1 {
			if time.Since(began) > time.Minute {
				return false
			}
			continue
		}
		select {
		case err := <-asked:
			asked <- err
		default:
			continue
		}
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		ends := r.gone(0) || r.op.wrong(r.crashed, ctx) == "" || time.Since(began) > 30*time.Second
		cancel()
		if ends && right.IsZero() {
			right = time.Now()
		}
		if !right.IsZero() && time.Since(right) > 500*time.Millisecond && time.Since(began) > time.Second {
			return r.wasHit()
		}
	}
}

// wasHit says whether the point that is armed was reached.
func (c *crashed) wasHit() bool {
	_, err := os.Stat(c.armed + ".hit")
	return err == nil
}

// giveUp ends a trial whose point was not reached.
func (r *round) giveUp(asked chan error) {
	r.disarm()
	if <-asked; r.gone(0) || r.Operation == "down" && r.gone(30*time.Second) { // which returns while the daemon still ends
		r.hangUp()
		if err := r.launchUp(); err != nil {
			r.t.Fatal(err)
		}
		if err := r.ready(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// recover brings the daemon up again where it was killed, asks again for what was not acknowledged, and waits until all is right.
func (r *round) recover(asked chan error) {
	daemon := !strings.HasPrefix(r.Point, "pilot.")
	if daemon && !r.gone(10*time.Second) {
		r.t.Fatalf("the daemon is still there after it reached %s", r.Point)
	}
	if r.Again.Point != "" {
		r.arm(r.Again.Point)
	}
	r.up, r.dead = r.died, daemon
	err := <-asked // before the daemon is there again: "down" goes on without it
	if daemon {
		r.revive()
	}
	if r.op.once {
		err = nil // it happened
	}
	for {
		r.strike()
		if r.gone(0) {
			r.revive()
		}
		wrong := r.wrong(&err)
		if wrong == "" && (r.Again.Role == "" || r.struck) {
			if r.disarm(); !r.strikes() {
				r.right()
				return
			}
		}
		if time.Since(r.up) > lostAfter {
			r.disarm()
			r.fail(&r.out.Lost, wrong)
			return
		}
		pause(20 * time.Millisecond)
	}
}

// wrong asks for what was not acknowledged, and says what is not right.
func (r *round) wrong(err *error) string {
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	if *err != nil {
		if *err = r.op.act(r.crashed, ctx); *err != nil {
			return "asked for again: " + (*err).Error()
		}
	}
	return r.op.wrong(r.crashed, ctx)
}

// right notes that all is.
func (r *round) right() {
	r.out.Took = time.Since(r.died)
	if took := time.Since(r.up); took > recovery {
		r.fail(&r.out.Late, fmt.Sprintf("it took %s", took.Round(time.Millisecond)))
	}
}

// fail notes what is wrong and prints what is known of it.
func (r *round) fail(n *int, what string) {
	r.out.fail(n, what)
	r.t.Errorf("%s: %s (load %s)\n%s", r.trial, what, load(), r.diagnosis())
}

// strikes does the second kill if it is due, and says whether one has just been done.
func (r *round) strikes() bool {
	before := r.out.Kills
	r.strike()
	return r.out.Kills > before
}

func (r *round) strike() {
	switch {
	case r.struck:
		return
	case r.Again.Point != "":
		if !r.wasHit() {
			return
		}
	case r.Again.Role == "" || time.Since(r.died) < r.Again.After:
		return
	case r.Again.Role == "daemon":
		_ = r.crashed.up.Process.Kill() // one that has ended is found below
	default:
		if r.killPilots() == 0 {
			r.struck = true
			return
		}
	}
	r.struck, r.died, r.up = true, time.Now(), time.Now()
	r.out.Kills++
	if r.Again.Role == "daemon" || r.Again.Point != "" && !strings.HasPrefix(r.Again.Point, "pilot.") {
		if r.dead = true; !r.gone(10 * time.Second) {
			r.t.Fatalf("the daemon is still there after its second kill, %s", r.trial)
		}
	}
}

// killPilots kills every pilot of this host.
func (r *round) killPilots() (n int) {
	for _, id := range r.leftoverIDs(r.t)["pilots"] {
		for _, pid := range processesOf("pilot", string(id)) {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				n++
			}
		}
	}
	return n
}

// revive starts the daemon, once more where it is killed while it starts.
func (r *round) revive() {
	for {
		if !r.dead {
			b, _ := os.ReadFile(r.log.Name())
			r.t.Fatalf("%s: the daemon has ended and nobody killed it: %s\n%s", r.trial, b, r.diagnosis())
		}
		r.dead = false
		r.hangUp()
		if err := r.launchUp(); err != nil {
			r.t.Fatal(err)
		}
		for deadline := time.Now().Add(2 * time.Minute); ; pause(20 * time.Millisecond) {
			b, _ := os.ReadFile(r.log.Name())
			if strings.Contains(string(b), "ready in") {
				r.up = time.Now()
				return
			}
			if r.strike(); r.gone(0) {
				break
			}
			if time.Now().After(deadline) {
				r.t.Fatalf("%s: gondola up is not ready after 2 minutes:\n%s", r.trial, b)
			}
		}
	}
}

// clear destroys everything and looks at what is left of it.
func (r *round) clear() {
	if r.doubled != "" {
		r.fail(&r.out.Doubled, r.doubled)
		r.doubled = ""
	}
	if err := r.destroyAll(); err != nil {
		r.fail(&r.out.Lost, "destroy everything: "+err.Error())
	}
	if err := r.awaitFor((*crashed).clean, recovery); err != nil {
		r.fail(&r.out.Leaked, err.Error())
	}
}

func (c *crashed) logSize() int64 {
	fi, err := os.Stat(filepath.Join(c.data, "gondola.log"))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// diagnosis is what the logs say of the round.
func (r *round) diagnosis() string {
	var b strings.Builder
	all, _ := os.ReadFile(filepath.Join(r.data, "gondola.log"))
	fmt.Fprintf(&b, "gondola.log:\n%s", tailOf(all[min(r.logged, int64(len(all))):]))
	files, _ := filepath.Glob(filepath.Join(r.data, "machines", "*", "pilot.log"))
	journals, _ := filepath.Glob(filepath.Join(r.data, "machines", "*", "journal"))
	for _, f := range append(files, journals...) {
		text, _ := os.ReadFile(f)
		fmt.Fprintf(&b, "%s:\n%s", f, tailOf(text))
	}
	out, _ := r.bounded("machine", "list", "--json")
	fmt.Fprintf(&b, "machines: %s", out)
	return b.String()
}

func tailOf(b []byte) []byte { return b[max(0, len(b)-6000):] }
