package gondolatest

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"gondola"
)

// next reads changes until one is as wanted.
func (s *suite) next(changes <-chan gondola.Change, what string, ok func(gondola.Change) bool) gondola.Change {
	s.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case ch, open := <-changes:
			if !open {
				s.Fatalf("the watch ended before %s", what)
			}
			if ok(ch) {
				return ch
			}
		case <-timer.C:
			s.Fatalf("no %s within %s", what, patience)
		}
	}
}

func (s *suite) watch() {
	old := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	changes, err := s.p.Watch(ctx, gondola.WatchRequest{Offers: true})
	s.no(err, "Watch")
	before := map[gondola.MachineID]bool{}
	s.next(changes, "synced", func(ch gondola.Change) bool {
		if ch.Machine != nil {
			before[ch.Machine.ID] = true
		}
		return ch.Synced && ch.Worker != ""
	})
	if !before[old.ID] || len(before) != 1 {
		s.Errorf("before synced came %v, want the machine that is there", before)
	}
	m := s.create(gondola.CreateRequest{Config: config()})
	less := false
	started := s.next(changes, "the start", func(ch gondola.Change) bool {
		less = less || ch.Offer != nil && ch.Offer.Capacity.CPUMillis == 8000 && ch.Offer.Free.MemoryBytes < ch.Offer.Capacity.MemoryBytes
		return ch.Machine != nil && ch.Machine.ID == m.ID && ch.Machine.State == gondola.Started
	})
	if started.Worker == "" || started.Machine.Config == nil || started.Machine.Ref() != m.Ref() {
		s.Errorf("change = %+v", started)
	}
	if !less {
		s.Error("no offer said that there is less room now")
	}
	seq := started.Machine.Gondola.Seq
	s.no(s.p.Destroy(s.Context(), m.Ref(), true), "Destroy")
	last := s.next(changes, "the end", func(ch gondola.Change) bool {
		return ch.Machine != nil && ch.Machine.ID == m.ID && ch.Machine.State == gondola.Destroyed
	})
	if last.Machine.Gondola.Seq <= seq {
		s.Errorf("seq went from %d to %d", seq, last.Machine.Gondola.Seq)
	}
	cancel()
	for range changes { // ends, or the test does
	}
}

func (s *suite) watchFilters() {
	mine, other := config(), config()
	mine.Metadata = map[string]string{"owner": "me"}
	a := s.create(gondola.CreateRequest{Config: mine, SkipLaunch: true})
	b := s.create(gondola.CreateRequest{Config: other, SkipLaunch: true})
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	changes, err := s.p.Watch(ctx, gondola.WatchRequest{Metadata: map[string]string{"owner": "me"}})
	s.no(err, "Watch")
	_, err = s.p.Start(s.Context(), b.Ref())
	s.no(err, "Start")
	s.await(b.Ref(), gondola.Started)
	_, err = s.p.Start(s.Context(), a.Ref())
	s.no(err, "Start")
	s.next(changes, "the start of mine", func(ch gondola.Change) bool {
		if ch.Machine != nil && ch.Machine.ID == b.ID || ch.Offer != nil {
			s.Errorf("the watch has what was not asked for: %+v", ch)
		}
		return ch.Machine != nil && ch.Machine.ID == a.ID && ch.Machine.State == gondola.Started
	})
}

func (s *suite) readLog(ref gondola.Ref, o gondola.LogOptions) string {
	s.Helper()
	r, err := s.p.Logs(s.Context(), ref, o)
	s.no(err, "Logs")
	defer r.Close()
	b, err := io.ReadAll(r)
	s.no(err, "reading the log")
	return string(b)
}

// hasLog waits until the log is that.
func (s *suite) hasLog(ref gondola.Ref, want string) {
	s.Helper()
	s.eventually("the log is "+want, func() bool { return s.readLog(ref, gondola.LogOptions{}) == want })
}

func (s *suite) logs() {
	m := s.started(config("print", "one", "two", ";", "printerr", "three", ";", "trap"))
	ref := m.Ref()
	s.eventually("the log is whole", func() bool { return strings.Contains(s.readLog(ref, gondola.LogOptions{}), "ready") })
	tail := int64(1)
	for what, c := range map[string]struct {
		o    gondola.LogOptions
		want string
	}{
		"stdout": {gondola.LogOptions{Stream: "stdout"}, "one\ntwo\nready\n"},
		"stderr": {gondola.LogOptions{Stream: "stderr"}, "three\n"},
		"tail":   {gondola.LogOptions{Stream: "stdout", Tail: &tail}, "ready\n"},
		"limit":  {gondola.LogOptions{Stream: "stdout", LimitBytes: 5}, "one\nt"},
		"since":  {gondola.LogOptions{Since: time.Now().Add(time.Hour)}, ""},
	} {
		if got := s.readLog(ref, c.o); got != c.want {
			s.Errorf("log by %s = %q, want %q", what, got, c.want)
		}
	}
	if line, _, _ := strings.Cut(s.readLog(ref, gondola.LogOptions{CRI: true, Stream: "stdout"}), "\n"); !strings.HasSuffix(line, " stdout F one") {
		s.Errorf("CRI line = %q", line)
	}
	if line, _, _ := strings.Cut(s.readLog(ref, gondola.LogOptions{Timestamps: true, Stream: "stdout"}), "\n"); !strings.HasSuffix(line, "Z one") {
		s.Errorf("line with its time = %q", line)
	}
	r, err := s.p.Logs(s.Context(), ref, gondola.LogOptions{Follow: true, Stream: "stdout"})
	s.no(err, "Logs")
	defer r.Close()
	followed := make(chan string, 1)
	go func() { b, _ := io.ReadAll(r); followed <- string(b) }()
	s.no(s.p.Signal(s.Context(), ref, "SIGUSR2"), "Signal")
	select {
	case got := <-followed:
		if !strings.HasSuffix(got, "ready\ngot SIGUSR2\n") {
			s.Errorf("followed log = %q", got)
		}
	case <-time.After(patience):
		s.Error("the followed log does not end with its container")
	}
	if _, err := s.p.Logs(s.Context(), ref, gondola.LogOptions{Container: "nobody"}); err == nil {
		s.Error("there is a log of a container that is not")
	}
}

func (s *suite) execStream() {
	m := s.started(config())
	var out, errOut bytes.Buffer
	st, err := s.p.ExecStream(s.Context(), m.Ref(), gondola.ExecOptions{Command: []string{"/program", "echo", ";", "printerr", "done", ";", "exit", "9"}, Stdin: true},
		gondola.ExecIO{Stdin: strings.NewReader(strings.Repeat("0123456789", 50_000)), Stdout: &out, Stderr: &errOut})
	if err != nil || st.Code != 9 || out.Len() != 500_000 || errOut.String() != "done\n" {
		s.Errorf("ExecStream = %+v, %v; %d bytes, stderr %q", st, err, out.Len(), errOut.String())
	}
	_, err = s.p.ExecStream(s.Context(), m.Ref(), gondola.ExecOptions{Container: "nobody", Command: []string{"/program", "exit"}}, gondola.ExecIO{})
	s.wants(err, gondola.ErrNotFound, "ExecStream in an unknown container")
	sizes := make(chan gondola.TerminalSize, 1)
	sizes <- gondola.TerminalSize{Width: 91, Height: 27}
	tty := &terminal{want: "91x27", seen: make(chan struct{})}
	in, typed := io.Pipe()
	defer typed.Close()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	go s.p.ExecStream(ctx, m.Ref(), gondola.ExecOptions{Command: []string{"/program", "size"}, TTY: true, Stdin: true}, gondola.ExecIO{Stdin: in, Stdout: tty, Resize: sizes})
	select {
	case <-tty.seen:
	case <-time.After(patience):
		s.Errorf("the terminal's size did not arrive: %q", tty.String())
	}
}

// terminal tells when something was printed.
type terminal struct {
	want string
	seen chan struct{}
	once sync.Once
	mu   sync.Mutex
	bytes.Buffer
}

func (w *terminal) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.Buffer.String(), w.want) {
		w.once.Do(func() { close(w.seen) })
	}
	return n, err
}

func (w *terminal) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Buffer.String()
}

func (s *suite) execStreamEnds() {
	m := s.started(config())
	ctx, cancel := context.WithCancel(s.Context())
	out := &terminal{want: "running", seen: make(chan struct{})}
	go func() { <-out.seen; cancel() }()
	_, err := s.p.ExecStream(ctx, m.Ref(), gondola.ExecOptions{Command: []string{"/program", "run"}}, gondola.ExecIO{Stdout: out})
	if err == nil {
		s.Error("ExecStream that was abandoned = nil")
	}
	cancel()
	s.eventually("the command has ended", func() bool {
		ps, err := s.p.Processes(s.Context(), m.Ref())
		for _, p := range ps {
			if strings.HasSuffix(p.Command, "run") {
				return false
			}
		}
		return err == nil
	})
}

func (s *suite) attach() {
	c := gondola.Config{Containers: []gondola.Container{{Name: "main", Image: "test/app", Cmd: []string{"echo", ";", "exit", "5"},
		Restart: &gondola.RestartPolicy{Policy: gondola.RestartNo}, Gondola: &gondola.ContainerExtension{Stdin: true, StdinOnce: true}}}}
	m := s.started(c)
	var out bytes.Buffer
	st, err := s.p.Attach(s.Context(), m.Ref(), "main", gondola.ExecIO{Stdin: strings.NewReader("typed\n"), Stdout: &out})
	if err != nil || out.String() != "typed\n" || st.Code != 5 {
		s.Errorf("Attach = %+v, %v; output %q", st, err, out.String())
	}
}

func (s *suite) dial() {
	m := s.started(config("listen", "8080"))
	var c io.ReadWriteCloser
	s.eventually("port 8080 answers", func() (ok bool) {
		var err error
		c, err = s.p.Dial(s.Context(), m.Ref(), 8080)
		return err == nil
	})
	defer c.Close()
	io.WriteString(c, "there\n")
	b := make([]byte, len("hello there\n"))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello there\n" {
		s.Errorf("read %q, %v", b, err)
	}
	if closed, err := s.p.Dial(s.Context(), m.Ref(), 8081); err == nil {
		closed.Close()
		s.Error("a port on which nobody listens was dialled")
	}
}

func (s *suite) payload() {
	c := gondola.Config{Volumes: []gondola.TempVolume{{Name: "secret"}, {Name: "other"}},
		Containers: []gondola.Container{{Name: "main", Image: "test/app", Cmd: []string{"watch", "/secret/key"},
			Mounts: []gondola.ContainerMount{{Name: "secret", Path: "/secret"}, {Name: "other", Path: "/other"}}}}}
	payload := func(data string) *gondola.Payload {
		return &gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"secret": {{Path: "key", Data: []byte(data), Mode: 0o400}}}}
	}
	m := s.create(gondola.CreateRequest{Config: c, Gondola: &gondola.CreateExtension{Payload: payload("first\n")}})
	m = s.await(m.Ref(), gondola.Started)
	s.eventually("the first contents are read", func() bool { return strings.Contains(s.readLog(m.Ref(), gondola.LogOptions{}), "first") })
	s.no(s.p.PutPayload(s.Context(), m.Ref(), *payload("second\n")), "PutPayload")
	s.eventually("the second contents are read", func() bool { return strings.Contains(s.readLog(m.Ref(), gondola.LogOptions{}), "second") })
	part := gondola.Payload{Partial: true, Volumes: map[string][]gondola.PayloadFile{"other": {{Path: "key", Data: []byte("third")}}}}
	s.no(s.p.PutPayload(s.Context(), m.Ref(), part), "PutPayload of a part")
	for path, want := range map[string]string{"/secret/key": "second\n", "/other/key": "third"} {
		if got := s.run(m, "main", "read", path); got != want {
			s.Errorf("%s holds %q after a part was put, want %q", path, got, want)
		}
	}
	if again := s.get(m.Ref()); again.Version != m.Version {
		s.Error("a payload made a new version")
	}
}

func (s *suite) policies() {
	r := netip.MustParsePrefix("10.0.0.0/8")
	set := gondola.PolicySet{Groups: []gondola.PolicyGroup{{Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.64.16.2")}}},
		Policies: []gondola.Policy{{Name: "default/p", Ingress: &gondola.PolicyRules{}, Egress: &gondola.PolicyRules{Allow: []gondola.PolicyRule{
			{Peers: []gondola.PolicyPeer{{Group: "web"}, {Range: &r}}, Ports: []gondola.PolicyPort{{Protocol: "udp", Port: 53}}}}}}}}
	for range 2 {
		s.no(s.p.SetPolicies(s.Context(), "default", "test", set), "SetPolicies")
	}
	set.Groups = nil
	s.wants(s.p.SetPolicies(s.Context(), "default", "test", set), gondola.ErrInvalid, "SetPolicies with a group that is not there")
	s.no(s.p.SetPolicies(s.Context(), "default", "test", gondola.PolicySet{}), "SetPolicies of none")
}

func (s *suite) servicesAndImages() {
	service := gondola.VirtualService{Name: "default/web", Addresses: []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 80, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.64.16.2:8080")}}}}
	for range 2 {
		s.no(s.p.SetServices(s.Context(), "default", []gondola.VirtualService{service}), "SetServices")
	}
	s.no(s.p.SetServices(s.Context(), "default", nil), "SetServices of none")
	s.policies()
	doors, err := s.p.Entrances(s.Context())
	s.no(err, "Entrances")
	if len(doors) == 0 || doors[0].Worker == "" || len(doors[0].Addresses) == 0 {
		s.Errorf("Entrances = %+v, want one with its worker and the host's addresses", doors)
	}
	s.started(config())
	images, err := s.p.ListImages(s.Context())
	s.no(err, "ListImages")
	var refs []string
	for _, i := range images {
		refs = append(refs, i.Reference)
	}
	if !reflect.DeepEqual(refs, []string{"test/app"}) {
		s.Errorf("images = %v, want test/app", refs)
	}
	if _, err := s.p.PruneImages(s.Context()); err != nil {
		s.Errorf("PruneImages = %v", err)
	}
}
