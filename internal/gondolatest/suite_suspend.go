package gondolatest

import (
	"io"
	"slices"
	"strings"

	"gondola"
)

// asks asks the counter in a Machine.
func (s *suite) asks(ref gondola.Ref) string {
	s.Helper()
	conn, err := s.p.Dial(s.Context(), ref, 8081)
	s.no(err, "Dial")
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: count\r\nConnection: close\r\n\r\n")
	s.no(err, "ask the counter")
	b, _ := io.ReadAll(conn)
	_, n, _ := strings.Cut(string(b), "\r\n\r\n")
	return n
}

func (s *suite) counter() gondola.Machine {
	s.Helper()
	m := s.started(config("write", "/tmp/kept", "words", ";", "count", "8081"))
	for s.connects(m.Ref()) != nil && s.Context().Err() == nil {
	}
	return m
}

// connects connects to the counter once.
func (s *suite) connects(ref gondola.Ref) error {
	conn, err := s.p.Dial(s.Context(), ref, 8081)
	if err == nil {
		conn.Close()
	}
	return err
}

func (s *suite) suspended(ref gondola.Ref) gondola.Machine {
	s.Helper()
	s.no(s.p.Suspend(s.Context(), ref), "Suspend")
	return s.await(ref, gondola.Suspended)
}

func types(events []gondola.Event) (all []string) {
	for _, e := range events {
		all = append(all, e.Type+" "+e.Status)
	}
	slices.Reverse(all)
	return all
}

func (s *suite) suspendAndStart() {
	m := s.counter()
	first := s.asks(m.Ref())
	before := s.get(m.Ref())
	now := s.suspended(m.Ref())
	if now.Gondola.Allocated != (gondola.Resources{}) {
		s.Errorf("a suspended machine holds %v", now.Gondola.Allocated)
	}
	s.no(s.p.Suspend(s.Context(), m.Ref()), "Suspend of a suspended machine")
	_, err := s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "exit"}})
	s.wants(err, gondola.ErrPrecondition, "Exec in a suspended machine")
	s.wants(s.p.Restart(s.Context(), m.Ref(), gondola.RestartRequest{}), gondola.ErrPrecondition, "Restart of a suspended machine")
	res, err := s.p.Start(s.Context(), m.Ref())
	if err != nil || res.PreviousState != gondola.Suspended {
		s.Errorf("Start = %+v, %v", res, err)
	}
	after := s.await(m.Ref(), gondola.Started)
	if !slices.Equal(after.Gondola.Addresses, before.Gondola.Addresses) || after.Gondola.Containers[0].RestartCount != 0 || after.Version != before.Version {
		s.Errorf("before: %+v, after: %+v", before.Gondola, after.Gondola)
	}
	if second := s.asks(m.Ref()); second <= first {
		s.Errorf("the counter said %s, then %s", first, second)
	}
	out, err := s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "read", "/tmp/kept"}})
	if err != nil || strings.TrimSpace(out.Stdout) != "words" {
		s.Errorf("the file has %q, %v", out.Stdout, err)
	}
	all := types(after.Events)
	if want := []string{"suspend suspending", "suspend suspended", "start starting", "resume started"}; len(all) < 4 || !slices.Equal(all[len(all)-4:], want) {
		s.Errorf("events = %q, want %q at the end", all, want)
	}
}

func (s *suite) suspendRefuses() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	s.wants(s.p.Suspend(s.Context(), m.Ref()), gondola.ErrPrecondition, "Suspend of a machine that was never started")
	planned := config()
	planned.Schedule = "daily"
	m = s.started(planned)
	s.wants(s.p.Suspend(s.Context(), m.Ref()), gondola.ErrPrecondition, "Suspend of a machine with a schedule")
	if m = s.get(m.Ref()); m.State != gondola.Started {
		s.Errorf("state = %s, want started", m.State)
	}
	s.wants(s.p.Suspend(s.Context(), gondola.Ref{App: suiteApp, ID: "00000000000000"}), gondola.ErrNotFound, "Suspend of no machine")
}

// suspendDiscarded: a suspended Machine gives up its snapshot with a stop, an update and its destruction.
func (s *suite) suspendDiscarded() {
	m := s.counter()
	s.asks(m.Ref())
	s.suspended(m.Ref())
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	_, err := s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	if now := s.await(m.Ref(), gondola.Started); slices.Contains(types(now.Events), "resume started") {
		s.Errorf("events = %q: it was resumed although it was stopped", types(now.Events))
	}
	s.suspended(m.Ref())
	u, err := s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: config("trap")}})
	s.no(err, "Update")
	if now := s.await(m.Ref(), gondola.Started); now.Version != u.Version || slices.Contains(types(now.Events), "resume started") {
		s.Errorf("version %s, want %s; events = %q", now.Version, u.Version, types(now.Events))
	}
	s.suspended(m.Ref())
	s.no(s.p.Destroy(s.Context(), m.Ref(), false), "Destroy of a suspended machine")
	s.await(m.Ref(), gondola.Destroyed)
}

// suspendAndNoRoom: what was taken meanwhile is not given twice.
func (s *suite) suspendAndNoRoom() {
	m := s.counter()
	first := s.asks(m.Ref())
	s.suspended(m.Ref())
	all := config()
	all.Guest = &gondola.Guest{CPUKind: "performance", CPUs: 8, MemoryMB: 16384}
	auction, err := s.p.Ask(s.Context(), gondola.Ask{Requests: gondola.Resources{CPUMillis: 8000, MemoryBytes: 16 << 30}})
	if err != nil || len(auction.Bids) == 0 {
		s.Fatalf("Ask for all there is = %+v, %v: the suspended machine holds some", auction, err)
	}
	other := s.started(all)
	_, err = s.p.Start(s.Context(), m.Ref())
	s.wants(err, gondola.ErrCapacity, "Start where there is no room")
	if now := s.get(m.Ref()); now.State != gondola.Suspended {
		s.Errorf("state = %s, want suspended", now.State)
	}
	s.no(s.p.Destroy(s.Context(), other.Ref(), true), "Destroy")
	s.await(other.Ref(), gondola.Destroyed)
	_, err = s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	s.await(m.Ref(), gondola.Started)
	if second := s.asks(m.Ref()); second <= first {
		s.Errorf("the counter said %s, then %s", first, second)
	}
}
