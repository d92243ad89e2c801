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
