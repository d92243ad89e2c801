package runsc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/gvisor/runsc"
	"gondola/internal/pilot"
)

func TestContainer_ExitCodeAndOutput(t *testing.T) {
	m := boot(t, nil)
	out := m.start("one", nil, "echo", "hello")
	if got := out.line(t); got != "hello" {
		t.Errorf("output = %q, want hello", got)
	}
	if exit := m.wait("one"); exit != (pilot.Exit{}) {
		t.Errorf("Wait = %+v, want code 0", exit)
	}
	if err := m.Delete(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	m.start("one", nil, "exit", "7")
	if exit := m.wait("one"); exit.Code != 7 {
		t.Errorf("Wait = %+v, want code 7", exit)
	}
	if exit := m.wait("one"); exit.Code != 7 {
		t.Errorf("Wait again = %+v, want code 7", exit)
	}
}

func TestContainer_Signal(t *testing.T) {
	m := boot(t, nil)
	out := m.start("one", nil, "serve", "8080")
	out.line(t)
	if err := m.Signal(t.Context(), "one", "SIGTERM", false); err != nil {
		t.Fatal(err)
	}
	if exit := m.wait("one"); exit.Code != 143 || exit.Signal != 15 {
		t.Errorf("Wait = %+v, want signal 15", exit)
	}
}

func TestExec(t *testing.T) {
	m := boot(t, nil)
	m.start("one", nil, "serve", "8080").line(t)
	if out, st := m.exec("one", "echo", "from exec"); out != "from exec" || st.Code != 0 {
		t.Errorf("exec = %q, %+v", out, st)
	}
	if _, st := m.exec("one", "exit", "3"); st.Code != 3 {
		t.Errorf("exec exit 3 = %+v", st)
	}
	var out bytes.Buffer
	st, err := m.Exec(t.Context(), "one", pilot.Exec{Args: []string{"/bin/probe", "cat"}}, gondola.ExecIO{Stdin: strings.NewReader("to the end"), Stdout: &out})
	if err != nil || st.Code != 0 || out.String() != "to the end" {
		t.Errorf("exec cat = %q, %+v, %v", out.String(), st, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := m.Exec(ctx, "one", pilot.Exec{Args: []string{"/bin/probe", "sleep", "60"}}, gondola.ExecIO{}); err == nil || time.Since(start) > 30*time.Second {
		t.Errorf("exec with deadline = %v after %v", err, time.Since(start))
	}
	procs, err := m.Processes(t.Context())
	if err != nil || len(procs) != 1 {
		t.Errorf("Processes = %+v, %v; want the server alone", procs, err)
	}
}

func TestExec_Terminal(t *testing.T) {
	m := boot(t, nil)
	m.start("one", nil, "serve", "8080").line(t)
	stdin, keys := io.Pipe()
	screen, stdout := io.Pipe()
	resize := make(chan gondola.TerminalSize)
	type result struct {
		st  gondola.ExitStatus
		err error
	}
	done := make(chan result, 1)
	go func() {
		st, err := m.Exec(t.Context(), "one", pilot.Exec{Args: []string{"/bin/probe", "tty"}, TTY: true},
			gondola.ExecIO{Stdin: stdin, Stdout: stdout, Resize: resize})
		stdout.Close()
		done <- result{st, err}
	}()
	lines := make(chan string, 10)
	go func() {
		b, buf := "", make([]byte, 1024)
		for {
			n, err := screen.Read(buf)
			b += string(buf[:n])
			for {
				line, rest, ok := strings.Cut(b, "\r\n")
				if !ok {
					break
				}
				lines <- line
				b = rest
			}
			if err != nil {
				close(lines)
				return
			}
		}
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if !strings.Contains(got, want) {
				t.Errorf("terminal shows %q, want %q", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("terminal does not show %q", want)
		}
	}
	expect("tty true")
	resize <- gondola.TerminalSize{Width: 100, Height: 50}
	expect("winch 50x100")
	keys.Write([]byte("typed\n"))
	expect("typed")       // the echo
	expect("line typed")  // what it read
	keys.Write([]byte{3}) // ^C
	expect("interrupt")
	if res := <-done; res.err != nil || res.st.Code != 5 {
		t.Errorf("Exec = %+v, want code 5", res)
	}
}

func TestDial_ReachesLoopback(t *testing.T) {
	m := boot(t, nil)
	m.start("one", nil, "serve", "8080").line(t)
	conn, err := m.Dial(t.Context(), 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
	b, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(b), "probe") {
		t.Errorf("GET = %q, %v", b, err)
	}
}

// TestDial_IsToldAgain: the sandbox tells once more what can be done with the connections in it, after a resume too.
func TestDial_IsToldAgain(t *testing.T) {
	m := boot(t, nil)
	var run pilot.Run
	m.start("one", func(r *pilot.Run) { run = *r }, "serve", "8080").line(t)
	told := func() int64 {
		t.Helper()
		n, err := m.Woken()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := told(); n != 0 {
		t.Errorf("told of %d connections, and there is none", n)
	}
	conn := m.greet(8080)
	if n := told(); n == 0 {
		t.Error("told of no connection, and there is one that can be written to")
	}
	conn.Close() // or else there is no snapshot
	dir := filepath.Join(m.spec.Dir, "snapshot")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	commit := func() error { return os.WriteFile(filepath.Join(dir, "manifest.json"), nil, 0o600) } // for it the root file systems are kept
	if err := m.Checkpoint(t.Context(), dir, commit); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	run.Stdout, run.Stderr = w, w
	if err := driver.KillRecorded(t.Context(), filepath.Join(m.spec.RunDir, driver.SandboxRecord)); err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(t.Context(), m.spec, dir, []pilot.Run{run}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	m.greet(8080)
	if n := told(); n == 0 {
		t.Error("told of no connection after the resume, and there is one that can be written to")
	}
}

// greet asks the server at a port, over a connection that stays open until the test has ended.
func (m *machine) greet(port int) io.Closer {
	m.Helper()
	conn, err := m.Dial(m.Context(), port)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: probe\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		m.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), "probe") {
		m.Errorf("GET = %q, %v", b, err)
	}
	return conn
}

func TestContainers_ShareLocalhostAndVolumes(t *testing.T) {
	m := boot(t, func(s *pilot.Spec) {
		s.Volumes = []pilot.Volume{{Name: "disk", Kind: pilot.VolumeDisk}, {Name: "sized", Kind: pilot.VolumeDisk, SizeMB: 10},
			{Name: "memory", Kind: pilot.VolumeMemory, SizeMB: 4}}
	})
	mounts := func(r *pilot.Run) {
		for i := range m.spec.Volumes {
			r.Mounts = append(r.Mounts, pilot.Mount{Volume: &m.spec.Volumes[i], Path: "/" + m.spec.Volumes[i].Name})
		}
	}
	m.start("one", mounts, "serve", "8080").line(t)
	m.start("two", mounts, "serve", "8081").line(t)
	if out, _ := m.exec("two", "get", "http://127.0.0.1:8080/"); !strings.Contains(out, "probe") {
		t.Errorf("get from the neighbour = %q", out)
	}
	for _, v := range []string{"disk", "sized", "memory"} {
		m.exec("one", "write", "/"+v+"/f", "shared")
		if out, _ := m.exec("two", "read", "/"+v+"/f"); out != "shared" {
			t.Errorf("file in %s = %q, want shared", v, out)
		}
	}
	for _, v := range []string{"disk", "memory", "sized"} {
		ctx, cancel := context.WithCancel(t.Context())
		var served sync.WaitGroup
		serve := func(args ...string) {
			served.Go(func() {
				m.Exec(ctx, "one", pilot.Exec{Args: append([]string{"/bin/probe"}, args...)}, gondola.ExecIO{})
			})
		}
		serve("unix-serve", "/"+v+"/s")
		if out, _ := m.exec("two", "unix-get", "/"+v+"/s"); out != "over unix" {
			t.Errorf("unix socket in %s: %q", v, out)
		}
		if v == "memory" { // volumes on disk have no FIFOs between containers
			serve("fifo-write", "/"+v+"/p")
			if out, _ := m.exec("two", "fifo-read", "/"+v+"/p"); out != "over fifo" {
				t.Errorf("fifo in %s: %q", v, out)
			}
		}
		cancel()
		served.Wait()
	}
	for _, dir := range []string{"/tmp", "/sized"} {
		if out, _ := m.exec("one", "peer", dir+"/peer"); out != "0 true through" {
			t.Errorf("unix socket to itself in %s: peer %q, want uid 0, its own pid, and the file passed", dir, out)
		}
	}
	usage, err := m.Usage(t.Context())
	if err != nil || usage["one"] < 1<<20 || usage["one"] > 100<<20 {
		t.Errorf("Usage = %v, %v", usage, err)
	}
}

func TestBoot_AdoptsALivingSandbox(t *testing.T) {
	m := boot(t, nil)
	m.start("one", nil, "serve", "8080").line(t)
	later := runsc.New(runsc.Config{Executable: filepath.Join(m.spec.Containers[0].Tree, "pilot")})
	if adopted, err := later.Boot(t.Context(), m.spec); err != nil || !adopted {
		t.Fatalf("Boot on a living sandbox = %v, %v; want adopted", adopted, err)
	}
	if err := later.Signal(t.Context(), "one", "SIGTERM", false); err != nil {
		t.Fatal(err)
	}
	if exit, err := later.Wait(t.Context(), "one"); err != nil || exit.Code != 143 {
		t.Errorf("Wait for a container of an earlier pilot = %+v, %v; want 143", exit, err)
	}
}

func TestBoot_AfterTheSandboxDied(t *testing.T) {
	m := boot(t, func(s *pilot.Spec) { s.Volumes = []pilot.Volume{{Name: "disk", Kind: pilot.VolumeDisk}} })
	withDisk := func(r *pilot.Run) {
		r.Mounts = []pilot.Mount{{Volume: &m.spec.Volumes[0], Path: "/disk"}}
	}
	m.start("one", withDisk, "serve", "8080").line(t)
	m.exec("one", "write", "/disk/kept", "contents")
	m.exec("one", "write", "/tmp/lost", "contents")
	m.killSandbox()
	select {
	case <-m.Gone():
	case <-time.After(5 * time.Second):
		t.Fatal("Gone does not close after kill -9 of the sandbox")
	}
	if exit := m.wait("one"); !exit.Unknown {
		t.Errorf("Wait = %+v, want an unknown exit", exit)
	}
	if m.OOM() {
		t.Error("OOM after kill -9")
	}
	if adopted, err := m.Boot(t.Context(), m.spec); err != nil || adopted {
		t.Fatalf("Boot after kill -9 = %v, %v; want a new sandbox", adopted, err)
	}
	select {
	case <-m.Gone():
		t.Fatal("Gone is closed after Boot")
	default:
	}
	m.start("one", withDisk, "serve", "8080").line(t)
	if got, _ := m.exec("one", "read", "/disk/kept"); got != "contents" {
		t.Errorf("the volume on disk has %q, want its contents", got)
	}
	if _, st := m.exec("one", "read", "/tmp/lost"); st.Code == 0 {
		t.Error("the root file system of the last run is still there")
	}
}

func (m *machine) killSandbox() {
	m.Helper()
	b, err := os.ReadFile(filepath.Join(m.spec.RunDir, "sandbox.json"))
	var rec struct{ PID int }
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err == nil {
		err = syscall.Kill(rec.PID, syscall.SIGKILL)
	}
	if err != nil {
		m.Fatal(err)
	}
}

func TestBoot_OOMIsTold(t *testing.T) {
	m := boot(t, func(s *pilot.Spec) { s.Limits.MemoryBytes = 64 << 20 })
	m.start("one", nil, "eat", "300")
	select {
	case <-m.Gone():
	case <-time.After(10 * time.Second):
		t.Fatal("a sandbox of 64 MB lives with 300 MB in use")
	}
	if !m.OOM() {
		t.Error("OOM = false after an overrun")
	}
}

func TestContainer_Security(t *testing.T) {
	m := boot(t, nil)
	secure := func(sec gondola.Security, uid uint32) func(*pilot.Run) {
		return func(r *pilot.Run) {
			r.Container.Config.Gondola = &gondola.ContainerExtension{Security: &sec}
			r.Identity = pilot.Identity{UID: uid, GID: uid, Groups: []uint32{7}}
		}
	}
	// Bits of capabilities: NET_BIND_SERVICE 10, NET_RAW 13.
	for _, row := range []struct {
		name   string
		change func(*pilot.Run)
		want   []string
	}{
		{"as Docker's by default", secure(gondola.Security{}, 0), []string{"CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t0"}},
		{"all dropped but one", secure(gondola.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}, 0),
			[]string{"CapEff:\t0000000000000400", "CapBnd:\t0000000000000400"}},
		{"not root", secure(gondola.Security{NoNewPrivileges: true}, 1000), []string{"CapEff:\t0000000000000000", "Uid:\t1000", "Groups:\t7", "NoNewPrivs:\t1"}},
	} {
		out := m.start("one", row.change, "caps")
		var all []string
		for l := range out.lines {
			all = append(all, l)
		}
		for _, want := range row.want {
			if !strings.Contains(strings.Join(all, "\n"), want) {
				t.Errorf("%s: status has\n%s\nwant %q", row.name, strings.Join(all, "\n"), want)
			}
		}
		m.wait("one")
		if err := m.Delete(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
	}
	run := pilot.Run{Container: m.spec.Containers[0], Args: []string{"/bin/probe"}}
	run.Container.Config.Gondola = &gondola.ContainerExtension{Security: &gondola.Security{AddCapabilities: []string{"FLY"}}}
	if err := m.Start(t.Context(), run); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("Start with capability FLY = %v, want ErrInvalid", err)
	}
	m.start("two", secure(gondola.Security{ReadOnlyRootfs: true}, 0), "serve", "8080").line(t)
	if out, _ := m.exec("two", "write", "/x", "y"); !strings.Contains(out, "read-only") {
		t.Errorf("write to a read-only root = %q", out)
	}
}

func TestContainer_NotRootBindsPort80(t *testing.T) {
	m := boot(t, nil)
	out := m.start("one", func(r *pilot.Run) { r.Identity = pilot.Identity{UID: 1000, GID: 1000} }, "serve", "80")
	if got := out.line(t); got != "ready" {
		t.Errorf("listening on port 80 as uid 1000 = %q", got)
	}
}

func TestContainer_FilesStayInTheirRoot(t *testing.T) {
	m := boot(t, nil)
	file := func(path, text string, mode uint32) gondola.File {
		return gondola.File{GuestPath: path, RawValue: base64.StdEncoding.EncodeToString([]byte(text)), Mode: mode}
	}
	out := m.start("one", func(r *pilot.Run) {
		// The image has the absolute link /etc/run → /run.
		r.Files = []gondola.File{file("/etc/run/deep/er", "through the link", 0o600), file("/plain", "plain", 0)}
	}, "read", "/run/deep/er")
	if got := out.line(t); got != "through the link" {
		t.Errorf("file = %q", got)
	}
	if _, err := os.Stat("/run/deep/er"); err == nil {
		t.Error("the file was written to the host")
	}
}

func TestContainer_Terminal(t *testing.T) {
	m := boot(t, nil)
	inR, in, _ := os.Pipe()
	resize := make(chan gondola.TerminalSize)
	out := m.start("one", func(r *pilot.Run) { r.TTY, r.Stdin, r.Stderr, r.Resize = true, inR, nil, resize }, "tty")
	expect := func(want string) {
		t.Helper()
		if got := out.line(t); !strings.Contains(got, want) {
			t.Errorf("terminal shows %q, want %q", got, want)
		}
	}
	expect("tty true")
	resize <- gondola.TerminalSize{Width: 100, Height: 50}
	expect("winch 50x100")
	io.WriteString(in, "typed\n")
	expect("typed")
	expect("line typed")
	in.Write([]byte{3})
	expect("interrupt")
	if exit := m.wait("one"); exit.Code != 5 {
		t.Errorf("Wait = %+v, want 5", exit)
	}
}

func TestVolume_PartsStayInTheirVolume(t *testing.T) {
	secret := t.TempDir()
	if err := os.WriteFile(filepath.Join(secret, "host"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []pilot.VolumeKind{pilot.VolumeDisk, pilot.VolumeMemory} {
		t.Run(string(kind), func(t *testing.T) {
			m := boot(t, func(s *pilot.Spec) {
				s.Volumes = []pilot.Volume{{Name: "v", Kind: kind}}
				s.Containers[1].Config.Mounts = []gondola.ContainerMount{{Name: "v", Path: "/part", Gondola: &gondola.MountExtension{SubPath: "link"}}}
			})
			mount := func(path, part string) func(*pilot.Run) {
				return func(r *pilot.Run) {
					r.Mounts = []pilot.Mount{{Volume: &m.spec.Volumes[0], Path: path, SubPath: part}}
				}
			}
			m.start("one", mount("/v", ""), "serve", "8080").line(t)
			m.exec("one", "symlink", secret, "/v/link")

			if got := m.start("two", mount("/part", "a/b"), "write", "/part/f", "in a part").line(t); got != "<end>" {
				t.Errorf("write to a part = %q", got)
			}
			if got, _ := m.exec("one", "read", "/v/a/b/f"); got != "in a part" {
				t.Errorf("the volume has %q, want what was written to its part", got)
			}
			m.wait("two")
			run := pilot.Run{Container: m.spec.Containers[1], Args: []string{"/bin/probe", "read", "/part/host"}}
			mount("/part", "link")(&run)
			err := m.Start(t.Context(), run)
			if err == nil {
				if exit := m.wait("two"); exit.Code == 0 {
					t.Error("a container reads the host's files through a link in a volume")
				}
			}
		})
	}
}

func TestSecrets_AreOnlyInRunDir(t *testing.T) {
	m := boot(t, nil)
	m.start("one", func(r *pilot.Run) { r.Env = append(r.Env, "TOKEN=s3cret") }, "serve", "8080").line(t)
	filepath.WalkDir(m.spec.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "/merged/") {
			return nil
		}
		if b, _ := os.ReadFile(path); bytes.Contains(b, []byte("s3cret")) {
			t.Errorf("%s holds a secret", path)
		}
		return nil
	})
}
