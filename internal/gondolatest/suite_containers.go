package gondolatest

import (
	"strings"

	"gondola"
)

func (s *suite) addContainer() {
	m := s.started(gondola.Config{Containers: []gondola.Container{{Name: "main", Image: "test/app", Cmd: []string{"run"}}}})
	debug := gondola.Container{Name: "debug", Image: "test/app", Cmd: []string{"env", "TOKEN", ";", "exit", "3"},
		Gondola: &gondola.ContainerExtension{Env: []gondola.EnvVar{{Name: "TOKEN", Secret: true}}}}
	req := gondola.AddContainerRequest{Container: debug, Payload: &gondola.Payload{Env: map[string]map[string]string{"debug": {"TOKEN": "hidden"}}}}
	for range 2 {
		s.no(s.p.AddContainer(s.Context(), m.Ref(), req), "AddContainer")
	}
	var got gondola.ContainerStatus
	s.eventually("the added container has ended", func() bool {
		for _, c := range s.get(m.Ref()).Gondola.Containers {
			if c.Name == "debug" {
				got = c
			}
		}
		return got.State.Kind == gondola.ContainerExited
	})
	if !got.Ephemeral || got.State.ExitCode != 3 || got.RestartCount != 0 {
		s.Errorf("debug = %+v, want an ephemeral container that exited with 3", got)
	}
	if log := s.readLog(m.Ref(), gondola.LogOptions{Container: "debug"}); !strings.Contains(log, "TOKEN=hidden") {
		s.Errorf("log = %q", log)
	}
	again := s.get(m.Ref())
	if again.Version != m.Version || again.State != gondola.Started {
		s.Errorf("the machine is %s, version %s: want %s as before", again.State, again.Version, m.Version)
	}
	req.Container.Cmd = []string{"run"}
	s.wants(s.p.AddContainer(s.Context(), m.Ref(), req), gondola.ErrConflict, "AddContainer of another one of that name")
	req.Container.Name, req.Container.Mounts = "more", []gondola.ContainerMount{{Name: "none", Path: "/x"}}
	s.wants(s.p.AddContainer(s.Context(), m.Ref(), req), gondola.ErrInvalid, "AddContainer with a volume that is not there")

	// The next run has none of them.
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	_, err := s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	if m = s.await(m.Ref(), gondola.Started); len(m.Config.Containers) != 1 {
		s.Errorf("containers of the next run = %+v, want main alone", m.Config.Containers)
	}
}

func (s *suite) resize() {
	k := gondola.Container{Name: "main", Image: "test/app", Cmd: []string{"run"}, Gondola: &gondola.ContainerExtension{
		Requests: &gondola.Resources{CPUMillis: 1000, MemoryBytes: 1 << 30}}}
	m := s.started(gondola.Config{Containers: []gondola.Container{k}, Gondola: &gondola.ConfigExtension{Requests: k.Gondola.Requests}})
	to := func(cpu, memory int64) gondola.ResizeRequest {
		size := gondola.Size{Requests: gondola.Resources{CPUMillis: cpu, MemoryBytes: memory}, Limits: gondola.Resources{MemoryBytes: memory}}
		return gondola.ResizeRequest{Size: size, Containers: []gondola.ContainerSize{{Name: "main", Size: size}}}
	}
	inEffect := func(req gondola.ResizeRequest) (last gondola.Machine) {
		s.eventually("the new size is in effect", func() bool {
			last = s.get(m.Ref())
			size := last.Gondola.Containers[0].Size
			return last.Gondola.Resize == nil && size != nil && *size == req.Size
		})
		return last
	}
	more := to(4000, 8<<30)
	for range 2 {
		got, err := s.p.Resize(s.Context(), m.Ref(), more)
		s.no(err, "Resize")
		if *got.Config.Gondola.Requests != more.Requests || got.Gondola.Allocated != more.Requests || got.Version != m.Version {
			s.Errorf("Resize = %+v, allocated %s; want %s of version %s", got.Config.Gondola, got.Gondola.Allocated, more.Requests, m.Version)
		}
	}
	if got := inEffect(more); got.State != gondola.Started || got.Gondola.Containers[0].RestartCount != 0 {
		s.Errorf("the machine is %s, %+v; want it running on", got.State, got.Gondola.Containers)
	}
	a, err := s.p.Ask(s.Context(), gondola.Ask{Requests: gondola.Resources{CPUMillis: 5000}})
	s.no(err, "Ask")
	if len(a.Bids) != 0 {
		s.Errorf("5 CPUs beside a machine that was resized to 4 of 8: %+v, want a refusal", a)
	}

	_, err = s.p.Resize(s.Context(), m.Ref(), to(9000, 1<<30))
	s.wants(err, gondola.ErrCapacity, "Resize beyond the worker")
	if r := gondola.Refusals(err); len(r) != 1 || r[0].Capacity.CPUMillis != 8000 || r[0].Free.CPUMillis != 8000 {
		s.Errorf("refusals = %+v, want one of a worker of 8 CPUs, of which the machine may have all", r)
	}
	if got := s.get(m.Ref()); got.Config.Gondola.Requests.CPUMillis != 4000 || got.Gondola.Allocated.CPUMillis != 4000 {
		s.Errorf("after a refusal: %+v, allocated %s", got.Config.Gondola, got.Gondola.Allocated)
	}
	_, err = s.p.Resize(s.Context(), m.Ref(), gondola.ResizeRequest{Size: more.Size, Containers: []gondola.ContainerSize{{Name: "none"}}})
	s.wants(err, gondola.ErrInvalid, "Resize of a container that is not there")

	less := to(500, 1<<29)
	_, err = s.p.Resize(s.Context(), m.Ref(), less)
	s.no(err, "Resize")
	if got := inEffect(less); got.Gondola.Allocated != less.Requests {
		s.Errorf("allocated = %s once less is in effect, want %s", got.Gondola.Allocated, less.Requests)
	}

	// A Machine that stands still has it from its next start.
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	got, err := s.p.Resize(s.Context(), m.Ref(), more)
	s.no(err, "Resize of a stopped machine")
	if got.Gondola.Allocated != (gondola.Resources{}) {
		s.Errorf("a stopped machine holds %s after its resize", got.Gondola.Allocated)
	}
	_, err = s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	s.await(m.Ref(), gondola.Started)
	inEffect(more)
}
