package gondolatest

import (
	"fmt"
	"slices"
	"strings"

	"gondola"
)

func (s *suite) files() {
	c := config("read", "/etc/motd", ";", "read", "/srv/data")
	c.Files = []gondola.File{{GuestPath: "/etc/motd", RawValue: "aGVsbG8K"}, {GuestPath: "/srv/data", RawValue: "d29ybGQK", Mode: 0o600}}
	m := s.create(gondola.CreateRequest{Config: c})
	s.await(m.Ref(), gondola.Stopped)
	s.hasLog(m.Ref(), "hello\nworld\n")
	for what, f := range map[string]gondola.File{"no base64": {GuestPath: "/x", RawValue: "%"}, "no absolute path": {GuestPath: "x", RawValue: "eA=="}} {
		c.Files = []gondola.File{f}
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c})
		s.wants(err, gondola.ErrInvalid, "Create with a file that has "+what)
	}
}

func (s *suite) imageConfigs() {
	c := config("read", "/etc/of/another.json", ";", "print", "", ";", "read", "/own.json")
	c.Files = []gondola.File{{GuestPath: "/etc/of/another.json", ImageConfig: "test/another:1", Mode: 0o600}, {GuestPath: "/own.json", ImageConfig: "test/app"}}
	m := s.create(gondola.CreateRequest{Config: c})
	s.await(m.Ref(), gondola.Stopped)
	of := func(image string) string {
		return `{"os":"linux","config":{"Labels":{"org.opencontainers.image.ref.name":"` + image + `"}}}`
	}
	s.hasLog(m.Ref(), of("test/another:1")+"\n"+of("test/app"))
	if got := s.get(m.Ref()).Config.Files; !slices.Equal(got, c.Files) {
		s.Errorf("the config's files = %+v, want them as they were sent", got)
	}
	// What it names stays as long as the Machine's own image does.
	if _, err := s.p.PruneImages(s.Context()); err != nil {
		s.Errorf("PruneImages = %v", err)
	}
	images, err := s.p.ListImages(s.Context())
	if err != nil || !slices.ContainsFunc(images, func(i gondola.ImageInfo) bool { return i.Reference == "test/another:1" }) {
		s.Errorf("images = %+v, %v, want test/another:1 among them", images, err)
	}
	c.Files = []gondola.File{{GuestPath: "/x", ImageConfig: "not/there"}}
	m = s.create(gondola.CreateRequest{Config: c})
	if m = s.await(m.Ref(), gondola.LaunchFailed); m.Gondola.Reason != "ImageFailed" || !strings.Contains(m.Gondola.Message, "not/there") {
		s.Errorf("reason %q, message %q, want that the image is not there", m.Gondola.Reason, m.Gondola.Message)
	}
	for what, f := range map[string]gondola.File{"no reference": {ImageConfig: "Not A Reference"}, "raw_value as well": {ImageConfig: "test/app", RawValue: "eA=="},
		"secret_name as well": {ImageConfig: "test/app", SecretName: "S"}} {
		f.GuestPath = "/x"
		c.Files = []gondola.File{f}
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c})
		s.wants(err, gondola.ErrInvalid, "Create with an image_config and "+what)
	}
}

// runs waits until a Machine of persisting has come to its n-th run over the same root file system.
func (s *suite) runs(ref gondola.Ref, what string, n int) {
	s.Helper()
	want, got := strings.Repeat("x\n", n), ""
	s.hasLog(ref, "ready\n")
	s.await(ref, gondola.Started)
	out, err := s.p.Exec(s.Context(), ref, gondola.ExecRequest{Command: []string{"/program", "read", "/runs"}})
	if err == nil {
		got = out.Stdout
	}
	if got != want {
		s.Errorf("%s: the root file system has %q, %v, want %q", what, got, err, want)
	}
}

// persisting is a Machine that adds a line to a file of its root file system at every run.
func persisting(persist string) gondola.Config {
	c := config("append", "/runs", "x", ";", "trap")
	c.Rootfs = &gondola.Rootfs{Persist: persist}
	return c
}

func (s *suite) rootfsPersists() {
	for _, row := range []struct {
		persist                                             string
		afterRestart, afterStart, afterSuspend, afterUpdate int
	}{{"never", 1, 1, 1, 1}, {"restart", 2, 1, 1, 1}, {"always", 2, 3, 3, 4}} {
		m := s.started(persisting(row.persist))
		s.runs(m.Ref(), row.persist+", first", 1)
		s.no(s.p.Restart(s.Context(), m.Ref(), gondola.RestartRequest{}), "Restart")
		_, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{FromEventID: m.Events[0].ID, States: []gondola.State{gondola.Started}, Timeout: patience})
		s.no(err, "Wait")
		s.runs(m.Ref(), row.persist+", restarted", row.afterRestart)
		s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
		s.await(m.Ref(), gondola.Stopped)
		_, err = s.p.Start(s.Context(), m.Ref())
		s.no(err, "Start")
		s.await(m.Ref(), gondola.Started)
		s.runs(m.Ref(), row.persist+", stopped and started", row.afterStart)
		s.suspended(m.Ref())
		_, err = s.p.Start(s.Context(), m.Ref())
		s.no(err, "Start")
		s.await(m.Ref(), gondola.Started)
		s.runs(m.Ref(), row.persist+", suspended and started", row.afterSuspend)
		c := persisting(row.persist)
		c.Env = map[string]string{"NEW": "yes"}
		s.updated(m.Ref(), c)
		s.runs(m.Ref(), row.persist+", updated", row.afterUpdate)
		c.Image = "test/other"
		s.updated(m.Ref(), c)
		s.runs(m.Ref(), row.persist+", updated to another image", 1)
		c.Image = "test/app"
		s.updated(m.Ref(), c)
		s.runs(m.Ref(), row.persist+", updated back", 1)
	}
}

// updated updates a Machine and waits until it runs with that.
func (s *suite) updated(ref gondola.Ref, c gondola.Config) {
	s.Helper()
	v, err := s.p.Update(s.Context(), ref, gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: c}})
	s.no(err, "Update")
	_, err = s.p.Wait(s.Context(), ref, gondola.WaitRequest{Version: v.Version, Timeout: patience})
	s.no(err, "Wait")
}

// rootfsEnds: what persists goes when the Config does not want it any more, also of a Machine that is stopped; and what says so is checked.
func (s *suite) rootfsEnds() {
	for _, next := range []string{"never", "restart"} {
		m := s.started(persisting("always"))
		s.runs(m.Ref(), "always", 1)
		s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
		s.await(m.Ref(), gondola.Stopped)
		s.updated(m.Ref(), persisting(next))
		s.runs(m.Ref(), "always, then "+next, 1)
	}
	ended := persisting("restart")
	ended.Init.Cmd = []string{"append", "/runs", "x", ";", "read", "/runs"}
	m := s.create(gondola.CreateRequest{Config: ended})
	s.await(m.Ref(), gondola.Stopped)
	_, err := s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	s.await(m.Ref(), gondola.Stopped)
	s.hasLog(m.Ref(), "x\n")

	both := func(rootfs, guest any) error {
		c := config()
		c.Rootfs, c.Guest = &gondola.Rootfs{Persist: rootfs}, &gondola.Guest{CPUs: 1, MemoryMB: 256, PersistRootfs: guest}
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c, SkipLaunch: true})
		return err
	}
	err = both("always", "restart")
	s.wants(err, gondola.ErrInvalid, "Create with two that differ")
	for _, name := range []string{"config.rootfs.persist", "config.guest.persist_rootfs"} {
		if !strings.Contains(fmt.Sprint(err), name) {
			s.Errorf("Create with two that differ = %v, want %s in it", err, name)
		}
	}
	s.wants(both("sometimes", nil), gondola.ErrInvalid, "Create with a word that is none")
	s.wants(both(nil, 4), gondola.ErrInvalid, "Create with a number that is none")
	s.no(both("always", 2), "Create with two that say the same")
	s.no(both("", "restart"), "Create with the old one alone")
}
