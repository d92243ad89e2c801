package gondolatest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"gondola"
)

// Lives are random lives of Machines.
type Lives struct {
	Platform gondola.Platform
	App      gondola.AppName // there is one of this name
	// Config returns what a Machine of a kind runs: "runs" until it is stopped, "ends" by itself with code 0, "broken" cannot be launched.
	Config func(kind string) gondola.Config
	Lives  int // how many, of Steps operations each on the average
	Steps  int
	// Interrupt, if set, ends the platform's daemon and begins it again.
	Interrupt func()
}

// Run does random operations on a Machine and compares what the platform answers, and where the Machine is, with a small model of the
// documented state machine (gondola.Moves): what may be done in which state, what follows, and where the Machine comes to rest. Every change of
// state that a watch shows has to be a legal one.
func (l Lives) Run(t *testing.T) {
	t.Helper()
	for name, value := range map[string]int{"rapid.checks": l.Lives, "rapid.steps": l.Steps} {
		before := flag.Lookup(name).Value.String()
		flag.Set(name, strconv.Itoa(value))
		t.Cleanup(func() { flag.Set(name, before) })
	}
	flag.Set("rapid.nofailfile", "true")
	rapid.Check(t, func(rt *rapid.T) { l.live(t, rt) })
}

// life is one Machine and what the model knows of it.
type life struct {
	Lives
	*rapid.T
	ctx context.Context
	ref gondola.Ref

	may      states // where it may be at this moment
	rests    states // where it comes to rest
	kind     string
	ran      states // Started, if it may have been started once; Created, if it may not have been
	version  gondola.Version
	versions int
	address  string

	mu   sync.Mutex
	seen []gondola.State // of the watch, without repetitions
}

// states is a set.
type states map[gondola.State]bool

func set(ss ...gondola.State) states {
	out := states{}
	for _, s := range ss {
		out[s] = true
	}
	return out
}

func (s states) add(o states) states { maps.Copy(s, o); return s }

func (s states) String() string {
	names := slices.Sorted(maps.Keys(s))
	return fmt.Sprint(names)
}

func (l Lives) live(t *testing.T, rt *rapid.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f := &life{Lives: l, T: rt, ctx: ctx, kind: drawKind(rt), ran: set(gondola.Created), versions: 1}
	skip := rapid.Bool().Draw(rt, "skip_launch")
	m, err := l.Platform.Create(ctx, l.App, gondola.CreateRequest{Config: l.Config(f.kind), SkipLaunch: skip})
	if err != nil {
		rt.Fatalf("Create = %v", err)
	}
	f.ref, f.version = m.Ref(), m.Version
	defer f.destroyForGood()
	watching := f.watch()
	f.may, f.rests = set(gondola.Created), set(gondola.Created)
	if !skip {
		f.begin(gondola.Created) // until its worker comes to it
	}
	actions := map[string]func(*rapid.T){
		"":        f.look,
		"start":   func(*rapid.T) { f.start() },
		"stop":    func(*rapid.T) { f.stop() },
		"suspend": func(*rapid.T) { f.suspend() },
		"restart": func(*rapid.T) { f.restart() },
		"update":  func(rt *rapid.T) { f.update(drawKind(rt), rapid.Bool().Draw(rt, "skip_launch")) },
		"stale":   func(*rapid.T) { f.staleUpdate() },
		"rest":    func(*rapid.T) { f.rest() },
		"destroy": func(rt *rapid.T) {
			if rapid.IntRange(0, 3).Draw(rt, "really") == 0 {
				f.destroy(rapid.Bool().Draw(rt, "force"))
			}
		},
	}
	interrupted := false
	if l.Interrupt != nil {
		actions["interrupt"] = func(*rapid.T) {
			l.Interrupt()
			interrupted = true
			if f.may[gondola.Started] { // it is found again, or started anew
				f.may.add(f.running())
			}
		}
	}
	rt.Repeat(actions)
	f.rest()
	if !interrupted { // else the stream has a gap
		f.checkMoves()
	}
	cancel()
	<-watching
}

func drawKind(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"runs", "ends", "broken"}).Draw(rt, "kind")
}

// watch notes the Machine's states as a watch shows them. It returns once it has the first; the channel closes when it has ended.
func (f *life) watch() <-chan struct{} {
	changes, err := f.Platform.Watch(f.ctx, gondola.WatchRequest{})
	if err != nil {
		f.Fatalf("Watch = %v", err)
	}
	done := make(chan struct{})
	first := make(chan struct{})
	go func() {
		defer close(done)
		told := sync.OnceFunc(func() { close(first) })
		defer told()
		for c := range changes {
			if c.Machine == nil || c.Machine.ID != f.ref.ID {
				continue
			}
			f.mu.Lock()
			if s := c.Machine.State; len(f.seen) == 0 || f.seen[len(f.seen)-1] != s {
				f.seen = append(f.seen, s)
			}
			f.mu.Unlock()
			told()
		}
	}()
	<-first
	return done
}

// checkMoves compares what the watch has shown with the table.
func (f *life) checkMoves() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := 1; i < len(f.seen); i++ {
		if !gondola.CanMove(f.seen[i-1], f.seen[i]) {
			f.Fatalf("it went from %s to %s, which the table does not have: %v", f.seen[i-1], f.seen[i], f.seen)
		}
	}
}

// ends are the states where a Machine that starts comes to rest.
func (f *life) ends() states {
	switch {
	case f.kind == "runs":
		return set(gondola.Started)
	case f.kind == "ends":
		return set(gondola.Stopped)
	case len(f.ran) == 2:
		return set(gondola.Failed, gondola.LaunchFailed)
	case f.ran[gondola.Started]:
		return set(gondola.Failed)
	}
	return set(gondola.LaunchFailed)
}

// running are the states of a Machine from its start on.
func (f *life) running() states {
	s := set(gondola.Starting).add(f.ends())
	if f.kind == "ends" {
		s[gondola.Started] = true
	}
	return s
}

// begin takes in that a Machine starts; before are the states on its way there.
func (f *life) begin(before ...gondola.State) {
	f.may, f.rests = set(before...).add(f.running()), f.ends()
	if f.kind != "broken" {
		f.ran[gondola.Started] = true // and it has been, once it rests
	}
}

// outcome compares the answer to an operation with the states in which it is done, out of those where the Machine may be, and says whether it
// was.
func (f *life) outcome(what string, err error, done func(gondola.State) bool) bool {
	f.Helper()
	var yes, no []gondola.State
	for s := range f.may {
		if done(s) {
			yes = append(yes, s)
		} else {
			no = append(no, s)
		}
	}
	f.Logf("%s = %v; it may be %v", what, err, f.may)
	switch {
	case err == nil && len(yes) == 0:
		f.Fatalf("%s was done, and is not to be in any of %v", what, f.may)
	case err != nil && !errors.Is(err, gondola.ErrPrecondition):
		f.Fatalf("%s = %v, want no other error than a precondition", what, err)
	case err != nil && len(no) == 0:
		f.Fatalf("%s = %v, and is to be done in any of %v", what, err, f.may)
	}
	return err == nil
}

// into says that an operation is done where the table has a move into this state, or in one of the others.
func into(to gondola.State, others ...gondola.State) func(gondola.State) bool {
	return func(s gondola.State) bool { return slices.Contains(others, s) || gondola.CanMove(s, to) }
}

func (f *life) start() {
	_, err := f.Platform.Start(f.ctx, f.ref)
	may := func(s gondola.State) bool {
		switch s {
		case gondola.Starting, gondola.Started: // it is left alone
			return true
		case gondola.Restarting, gondola.Updating: // it starts by itself, or was told not to
			return false
		}
		return gondola.CanMove(s, gondola.Starting)
	}
	if f.outcome("start", err, may) {
		f.begin()
	}
}

func (f *life) stop() {
	err := f.Platform.Stop(f.ctx, f.ref, gondola.StopRequest{Signal: "SIGKILL"})
	if f.outcome("stop", err, into(gondola.Stopping, gondola.Stopping, gondola.Stopped)) {
		f.may, f.rests = set(gondola.Stopping, gondola.Stopped), set(gondola.Stopped)
	}
}

// suspend may come to nothing, where the program has not begun yet or has just ended: then the Machine goes on.
func (f *life) suspend() {
	err := f.Platform.Suspend(f.ctx, f.ref)
	if f.outcome("suspend", err, into(gondola.Suspending, gondola.Suspending, gondola.Suspended)) {
		f.rests = set(gondola.Suspended).add(f.ends())
		f.may = set(gondola.Suspending, gondola.Started).add(f.rests)
	}
}

func (f *life) restart() {
	err := f.Platform.Restart(f.ctx, f.ref, gondola.RestartRequest{ForceStop: true})
	if f.outcome("restart", err, into(gondola.Restarting)) {
		f.begin(gondola.Restarting)
	}
}

func (f *life) update(kind string, skip bool) {
	m, err := f.Platform.Update(f.ctx, f.ref, gondola.UpdateRequest{CurrentVersion: f.version, CreateRequest: gondola.CreateRequest{Config: f.Config(kind), SkipLaunch: skip}})
	if !f.outcome(fmt.Sprintf("update to one that is %s, skip_launch %t", kind, skip), err, into(gondola.Updating)) {
		return
	}
	if m.Version == f.version || m.InstanceID != m.Version {
		f.Fatalf("an update left version %s as %s, instance_id %s", f.version, m.Version, m.InstanceID)
	}
	f.kind, f.version = kind, m.Version
	f.versions++
	switch {
	case !skip:
		f.begin(gondola.Updating)
	case len(f.may) == 1 && f.may[gondola.Created]:
		f.may, f.rests = set(gondola.Updating, gondola.Created), set(gondola.Created)
	default:
		rests := set(gondola.Stopped)
		if f.may[gondola.Created] {
			rests[gondola.Created] = true
		}
		f.may, f.rests = set(gondola.Updating).add(rests), rests
	}
}

// staleUpdate is refused in every state, and changes nothing.
func (f *life) staleUpdate() {
	_, err := f.Platform.Update(f.ctx, f.ref, gondola.UpdateRequest{CurrentVersion: gondola.NewVersion(time.Now()), CreateRequest: gondola.CreateRequest{Config: f.Config("runs")}})
	if !errors.Is(err, gondola.ErrConflict) && !(errors.Is(err, gondola.ErrPrecondition) && (f.may[gondola.Destroyed])) {
		f.Fatalf("an update of a stale version = %v, want a conflict", err)
	}
}

func (f *life) destroy(force bool) {
	err := f.Platform.Destroy(f.ctx, f.ref, force)
	if f.outcome(fmt.Sprintf("destroy, force %t", force), err, func(s gondola.State) bool {
		return force || s == gondola.Destroying || s == gondola.Destroyed || !s.Transient() && s != gondola.Started
	}) {
		f.may, f.rests = set(gondola.Destroying, gondola.Destroyed), set(gondola.Destroyed)
	}
}

// look compares where the Machine is with where it may be.
func (f *life) look(*rapid.T) {
	m, err := f.Platform.Get(f.ctx, f.ref)
	if err != nil {
		f.Fatalf("Get = %v", err)
	}
	if !f.may[m.State] {
		f.Fatalf("it is %s, and may be %v", m.State, f.may)
	}
	if m.Version != f.version {
		f.Fatalf("it has version %s, want %s", m.Version, f.version)
	}
}

// rest waits until the Machine is where it is to be, and looks at what goes with that.
func (f *life) rest() {
	want := slices.Sorted(maps.Keys(f.rests))
	if _, err := f.Platform.Wait(f.ctx, f.ref, gondola.WaitRequest{States: want, Timeout: 30 * time.Second}); err != nil {
		f.Fatalf("Wait for %v = %v", want, err)
	}
	m, err := f.Platform.Get(f.ctx, f.ref)
	if err != nil || !f.rests[m.State] {
		f.Fatalf("at rest it is %s (%v), want one of %v", m.State, err, f.rests)
	}
	f.may, f.rests = set(m.State), set(m.State)
	switch m.State {
	case gondola.Failed:
		f.ran = set(gondola.Started)
	case gondola.LaunchFailed:
		f.ran = set(gondola.Created)
	case gondola.Started:
		f.ran = set(gondola.Started)
	default:
	}
	if held := m.Gondola.Allocated != (gondola.Resources{}); held != (m.State == gondola.Started) {
		f.Fatalf("a %s machine holds %v", m.State, m.Gondola.Allocated)
	}
	if f.address != "" && m.PrivateIP != "" && m.PrivateIP != f.address {
		f.Fatalf("its address was %s and is %s", f.address, m.PrivateIP)
	}
	if m.PrivateIP != "" {
		f.address = m.PrivateIP
	}
	if res, err := f.Platform.Wait(f.ctx, f.ref, gondola.WaitRequest{Settled: true, Timeout: time.Second}); err != nil || res.State != m.State {
		f.Fatalf("Wait for settled of a %s machine = %+v, %v", m.State, res, err)
	}
	versions, err := f.Platform.Versions(f.ctx, f.ref)
	if err != nil || len(versions) != f.versions || versions[0].Version != f.version {
		f.Fatalf("%d versions (%v), want %d and %s as the last", len(versions), err, f.versions, f.version)
	}
	events, err := f.Platform.Events(f.ctx, f.ref, 1)
	if err != nil || len(events) != 1 || events[0].Status != string(m.State) && !slices.Contains([]string{"exit", "launch"}, events[0].Type) {
		f.Fatalf("the newest event of a %s machine is %+v (%v)", m.State, events, err)
	}
}

// destroyForGood leaves nothing behind, whatever the test has found.
func (f *life) destroyForGood() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f.Platform.Destroy(ctx, f.ref, true); err != nil {
		f.Errorf("Destroy = %v", err)
	}
	if _, err := f.Platform.Wait(ctx, f.ref, gondola.WaitRequest{States: []gondola.State{gondola.Destroyed}, Timeout: 30 * time.Second}); err != nil {
		f.Errorf("Wait for destroyed = %v", err)
	}
}
