package oracle_test

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"gondola"
	"gondola/internal/driver/drivertest/program"
)

// side is one of the two that are compared.
type side string

const (
	kubelets side = "kubelet" // the real one
	gondolas side = "gondola"
)

var sides = []side{kubelets, gondolas}

// part is one container of one Pod on one side.
type part struct {
	side            side
	life, container string
}

// end is how a run is to end when it is told to.
type end struct {
	code    int
	message string // into the termination message
	output  string // onto the log
}

// parting is what a run does at SIGTERM. The zero value ends at once as a program does that does not handle it.
type parting struct {
	code   int // if zero, 143
	after  time.Duration
	ignore bool
}

// actor is the script of a part, and what has become of it.
type actor struct {
	ends         []end // what this run and those after it are still to be told
	term         parting
	failing      map[string]bool // probe → it fails
	heals        bool            // all probes succeed again once the present run has ended
	asked        map[string]int  // probe → how often it has answered since its answer was changed
	begun, ended int             // runs
	parting      bool            // the present run has got SIGTERM
	changed      chan struct{}   // closed and replaced at every order
}

// stage holds the scripts of all parts. Both sides run the same program with it: containers run act, exec probes answer.
type stage struct {
	mu     sync.Mutex
	actors map[part]*actor
	news   chan struct{} // closed and replaced whenever a run begins or ends or a probe answers
}

func newStage() *stage { return &stage{actors: map[part]*actor{}, news: make(chan struct{})} }

func (s *stage) actorLocked(p part) *actor {
	a, ok := s.actors[p]
	if !ok {
		a = &actor{failing: map[string]bool{}, asked: map[string]int{}, changed: make(chan struct{})}
		s.actors[p] = a
	}
	return a
}

// order changes the script of a container on both sides.
func (s *stage) order(life, container string, f func(*actor)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, side := range sides {
		a := s.actorLocked(part{side, life, container})
		f(a)
		close(a.changed)
		a.changed = make(chan struct{})
	}
}

func (s *stage) newsLocked() {
	close(s.news)
	s.news = make(chan struct{})
}

// look returns a copy of what is known of a part, and a channel that closes when there is more.
func (s *stage) look(p part) (actor, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := *s.actorLocked(p)
	a.failing, a.asked = maps.Clone(a.failing), maps.Clone(a.asked)
	return a, s.news
}

// world is what a run has around it.
type world struct {
	signals <-chan gondola.Signal
	killed  <-chan struct{}
	out     io.Writer
	last    func(message string) // writes the termination message
}

// act is a run of a container; it returns its exit code.
func (s *stage) act(p part, w world) int {
	s.mu.Lock()
	s.actorLocked(p).begun++
	s.newsLocked()
	s.mu.Unlock()
	e := s.await(p, w)
	if e.message != "" {
		w.last(e.message)
	}
	if e.output != "" {
		fmt.Fprintln(w.out, e.output)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.actorLocked(p)
	a.ended++
	a.parting = false
	if a.heals {
		a.heals = false
		clear(a.failing)
	}
	s.newsLocked()
	return e.code
}

// await waits until the run is told to end, by its script or by a signal.
func (s *stage) await(p part, w world) end {
	var parted <-chan time.Time
	var last parting
	for {
		s.mu.Lock()
		a := s.actorLocked(p)
		changed := a.changed
		if len(a.ends) > 0 {
			e := a.ends[0]
			a.ends = a.ends[1:]
			s.mu.Unlock()
			return e
		}
		term := a.term
		s.mu.Unlock()
		select {
		case <-changed:
		case <-w.killed:
			return end{code: 137}
		case sig := <-w.signals:
			if sig != "SIGTERM" {
				continue
			}
			s.mu.Lock()
			a.parting = true
			s.newsLocked()
			s.mu.Unlock()
			if !term.ignore && parted == nil {
				last, parted = term, time.After(term.after)
			}
		case <-parted:
			if last.code == 0 {
				return end{code: 143}
			}
			return end{code: last.code}
		}
	}
}

// answer is an exec probe; it returns its exit code.
func (s *stage) answer(p part, probe string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.actorLocked(p)
	a.asked[probe]++
	s.newsLocked()
	if a.failing[probe] {
		return 1
	}
	return 0
}

// Commands of the image: "/actor LIFE CONTAINER" is a container, "/probe LIFE CONTAINER KIND" a probe.

func partOf(s side, args []string) part { return part{s, args[1], args[2]} }

// programs are the image's commands for driver/fake.
func (s *stage) programs() map[string]func(program.Env) int {
	return map[string]func(program.Env) int{
		"actor": func(e program.Env) int {
			return s.act(partOf(gondolas, e.Args), world{signals: e.Trap(), killed: e.Done, out: e.Stdout, last: func(message string) {
				writeFile(e.Path("/dev/termination-log"), message)
			}})
		},
		"probe": func(e program.Env) int { return s.answer(partOf(gondolas, e.Args), e.Args[3]) },
	}
}

func isProbe(args []string) bool { return strings.HasSuffix(args[0], "probe") }
