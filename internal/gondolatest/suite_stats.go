package gondolatest

import (
	"gondola"
)

// stats checks gondola.Stats: of all Machines, of those that match, of one, and of the host alone.
func (s *suite) stats() {
	one, labelled := config(), config()
	labelled.Metadata = map[string]string{"team": "blue"}
	a, b := s.started(one), s.started(labelled)
	ask := func(req gondola.StatsRequest) []gondola.MachineStats {
		s.Helper()
		workers, err := s.p.Stats(s.Context(), req)
		if err != nil || len(workers) != 1 || workers[0].Worker != a.Gondola.Worker || workers[0].Region != a.Region {
			s.Fatalf("Stats(%+v) = %+v, %v; want one worker", req, workers, err)
		}
		if h := workers[0].Host; h.MemoryTotal == 0 || h.Disk.Total == 0 || h.Pressure() != (gondola.Pressure{}) {
			s.Errorf("host = %+v, want a memory, a disk and no pressure", h)
		}
		return workers[0].Machines
	}
	if all := ask(gondola.StatsRequest{}); len(all) != 2 {
		s.Errorf("Stats of all = %+v, want two machines", all)
	}
	if none := ask(gondola.StatsRequest{HostOnly: true}); len(none) != 0 {
		s.Errorf("Stats of the host alone has machines: %+v", none)
	}
	for _, req := range []gondola.StatsRequest{{Metadata: labelled.Metadata}, {Ref: b.Ref()}} {
		got := ask(req)
		if len(got) != 1 || got[0].Ref != b.Ref() || got[0].Metadata["team"] != "blue" {
			s.Fatalf("Stats(%+v) = %+v, want that of %s", req, got, b.ID)
		}
		m := got[0]
		if len(m.Containers) != 1 || m.Containers[0].CPU.UsageNanos == 0 || m.Containers[0].StartedAt.IsZero() {
			s.Fatalf("containers = %+v, want one with its CPU time", m.Containers)
		}
		if rate := m.Containers[0].CPU; rate.Window <= 0 || rate.RateNanos < 5e7 || rate.RateNanos > 2e8 {
			s.Errorf("rate = %+v, want the tenth of a core that a fake container uses", rate)
		}
	}
	_, err := s.p.Stats(s.Context(), gondola.StatsRequest{Ref: gondola.Ref{App: suiteApp, ID: "00000000000000"}})
	s.wants(err, gondola.ErrNotFound, "Stats")
	if err := s.p.Destroy(s.Context(), b.Ref(), true); err != nil {
		s.Fatal(err)
	}
	s.await(b.Ref(), gondola.Destroyed)
	if left := ask(gondola.StatsRequest{}); len(left) != 1 || left[0].Ref != a.Ref() {
		s.Errorf("Stats after a destroy = %+v, want %s alone", left, a.ID)
	}
}
