package daemon_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/daemon"
	"gondola/internal/store"
)

// order is what a process of this test binary does instead of testing: it is `gondola up` or `gondola down`.
type order struct {
	Command     string // up, down, backup or restore
	File        string // of a backup
	Replace     bool
	Config      daemon.Config
	Purge       bool
	FailCluster bool // Kubernetes cannot be started
	Cluster     bool // there is Kubernetes, as far as ports go
}

const orderVariable = "GONDOLA_DAEMON_TEST"

func TestMain(m *testing.M) {
	if s := os.Getenv(orderVariable); s != "" {
		os.Exit(obey(s))
	}
	if addr := os.Getenv("GONDOLA_TEST_LISTEN"); addr != "" {
		os.Exit(listen(addr))
	}
	os.Exit(m.Run())
}

func obey(s string) int {
	var o order
	if err := json.Unmarshal([]byte(s), &o); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	fmt.Fprint(z, "no Machine is started here")
	z.Close()
	var err error
	switch o.Command {
	case "backup":
		err = daemon.Backup(ctx, daemon.BackupOptions{Config: o.Config, Version: "test", To: o.File, Say: say})
	case "restore":
		err = daemon.Restore(ctx, daemon.RestoreOptions{Config: o.Config, From: o.File, Replace: o.Replace, Say: say})
	case "down":
		err = daemon.Down(ctx, daemon.DownOptions{Config: o.Config, Version: "test", Pilot: packed.Bytes(), Purge: o.Purge, Say: say})
	default:
		up := daemon.Options{Config: o.Config, Version: "test", Pilot: packed.Bytes(), Say: say}
		if o.FailCluster || o.Cluster {
			up.NewCluster = func(c daemon.ClusterConfig) (daemon.Cluster, error) {
				fmt.Println("Services", c.ServiceCIDRs)
				return nil, errors.New("no cluster today")
			}
		}
		err = daemon.Up(ctx, up)
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// host is a network namespace in which daemons run.
type host struct {
	t     *testing.T
	netns string
	data  string
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	h := &host{t: t, netns: fmt.Sprintf("gdmn%d", os.Getpid()), data: filepath.Join(t.TempDir(), "data")}
	h.ip("netns", "add", h.netns)
	t.Cleanup(func() { h.ip("netns", "delete", h.netns) })
	h.ip("-n", h.netns, "link", "set", "lo", "up")
	t.Cleanup(func() {
		if out, err := h.run(order{Command: "down", Purge: true}); err != nil {
			t.Errorf("purge at the end: %v\n%s", err, out)
		}
		h.clean()
	})
	return h
}

func (h *host) ip(args ...string) {
	h.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		h.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// clean fails the test if this host has anything of gondola.
func (h *host) clean() {
	h.t.Helper()
	if _, err := os.Stat(h.data); !errors.Is(err, os.ErrNotExist) {
		entries, _ := os.ReadDir(h.data)
		h.t.Errorf("the data directory is left, with %v", entries)
	}
	for _, look := range []string{"nft list ruleset", "ip -o address", "ip -o link", "ip route show table all"} {
		out, _ := exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.netns}, strings.Fields(look)...)...).CombinedOutput()
		if strings.Contains(string(out), "gondola") || strings.Contains(string(out), "10.64.") {
			h.t.Errorf("%s shows what is left:\n%s", look, out)
		}
	}
}

func (h *host) command(o order) *exec.Cmd {
	if o.Config.Data == "" {
		o.Config.Data = h.data
	}
	b, err := json.Marshal(o)
	if err != nil {
		h.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	c := exec.Command("nsenter", "--net=/run/netns/"+h.netns, exe)
	c.Env = append(os.Environ(), orderVariable+"="+string(b))
	return c
}

// run runs a command to its end, which has to come soon.
func (h *host) run(o order) (string, error) {
	h.t.Helper()
	c := h.command(o)
	timer := time.AfterFunc(30*time.Second, func() { _ = c.Process.Kill() })
	defer timer.Stop()
	out, err := c.CombinedOutput()
	return string(out), err
}

// fails runs a command that has to fail within a few seconds, saying all of want.
func (h *host) fails(o order, want ...string) {
	h.t.Helper()
	began := time.Now()
	out, err := h.run(o)
	if err == nil || !strings.Contains(out, "error: ") {
		h.t.Errorf("%+v does not fail:\n%s", o, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			h.t.Errorf("%+v does not say %q:\n%s", o, w, out)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		h.t.Errorf("%+v took %s to fail", o, took)
	}
}

// up is a daemon that runs.
type up struct {
	h    *host
	cmd  *exec.Cmd
	out  *os.File
	done chan error
}

// start runs `up` until it says that it is ready.
func (h *host) start(o order) *up {
	h.t.Helper()
	o.Command = "up"
	f, err := os.CreateTemp(h.t.TempDir(), "up")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { f.Close() })
	u := &up{h: h, cmd: h.command(o), out: f, done: make(chan error, 1)}
	u.cmd.Stdout, u.cmd.Stderr = f, f
	if err := u.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { u.done <- u.cmd.Wait() }()
	for deadline := time.After(30 * time.Second); !strings.Contains(u.said(), "ready in"); {
		select {
		case err := <-u.done:
			h.t.Fatalf("up ended: %v\n%s", err, u.said())
		case <-deadline:
			h.t.Fatalf("up is not ready:\n%s", u.said())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return u
}

func (u *up) said() string {
	b, _ := os.ReadFile(u.out.Name())
	return string(b)
}

// end sends a signal and waits for the end.
func (u *up) end(s os.Signal) error {
	u.h.t.Helper()
	_ = u.cmd.Process.Signal(s)
	return u.wait()
}

func (u *up) wait() error {
	u.h.t.Helper()
	select {
	case err := <-u.done:
		return err
	case <-time.After(30 * time.Second):
		u.h.t.Fatalf("up does not end:\n%s", u.said())
		return nil
	}
}

func TestUp_ThatFailsAtFirstLeavesNothing(t *testing.T) {
	h := newHost(t)
	t.Run("port of the API in use", func(t *testing.T) {
		stop := h.listener("127.0.0.1:4280")
		defer stop()
		h.fails(order{Command: "up"}, "127.0.0.1:4280", "in use", "ss -ltnp", "`api`")
		h.clean()
	})
	t.Run("port of Kubernetes in use", func(t *testing.T) {
		stop := h.listener("0.0.0.0:6443")
		defer stop()
		h.fails(order{Command: "up", Cluster: true}, ":6443", "Kubernetes", "in use", "kubernetesPort")
		h.clean()
	})
	t.Run("range overlaps", func(t *testing.T) {
		h.ip("-n", h.netns, "route", "add", "10.65.0.0/16", "dev", "lo")
		defer h.ip("-n", h.netns, "route", "del", "10.65.0.0/16", "dev", "lo")
		h.fails(order{Command: "up"}, "10.64.0.0/10", "10.65.0.0/16", "is free")
		h.clean()
	})
	t.Run("data directory of something else", func(t *testing.T) {
		h := *h
		h.data = t.TempDir()
		precious := filepath.Join(h.data, "precious")
		if err := os.WriteFile(precious, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		h.fails(order{Command: "up"}, h.data, "not a data directory of gondola", "precious")
		h.fails(order{Command: "down", Purge: true}, "not a data directory of gondola")
		if entries, _ := os.ReadDir(h.data); len(entries) != 1 {
			t.Errorf("the directory holds %v now", entries)
		}
	})
	t.Run("data directory cannot be made", func(t *testing.T) {
		h.fails(order{Command: "up", Config: daemon.Config{Data: "/proc/none/data"}}, "/proc/none")
	})
	t.Run("bad configuration", func(t *testing.T) {
		h.fails(order{Command: "up", Config: daemon.Config{Range: "10.0.0.0/8"}}, "range", "/10")
		h.clean()
	})
}

// listener is another program with a port of the host.
func (h *host) listener(addr string) (stop func()) {
	h.t.Helper()
	c := exec.Command("nsenter", "--net=/run/netns/"+h.netns, os.Args[0])
	c.Env = append(os.Environ(), "GONDOLA_TEST_LISTEN="+addr)
	in, err := c.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	if b := make([]byte, 3); func() bool { _, err := out.Read(b); return err != nil }() {
		h.t.Fatal("the other program does not listen")
	}
	return func() {
		in.Close()
		_ = c.Wait()
	}
}

// listen takes an address until standard input ends: another program that has a port.
func listen(addr string) int {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer l.Close()
	fmt.Println("up")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test closes it
	return 0
}

func TestUp_NeedsRoot(t *testing.T) {
	h := newHost(t)
	c := h.command(order{Command: "up", Config: daemon.Config{Data: "/nowhere"}})
	b, err := os.ReadFile(c.Args[2])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	exe := filepath.Join(dir, "gondola")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(exe, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	c.Path, c.Args = exe, []string{exe}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "sudo gondola up") {
		t.Errorf("up without root: %v\n%s", err, out)
	}
}

func TestUpAndDown_AgainAndAgain(t *testing.T) {
	h := newHost(t)
	if out, err := h.run(order{Command: "down"}); err != nil || !strings.Contains(out, "nothing to do") {
		t.Errorf("down where nothing is: %v\n%s", err, out)
	}
	u := h.start(order{Config: daemon.Config{Regions: []gondola.Region{"aaa", "bbb"}}})
	h.fails(order{Command: "up"}, "runs already", h.data, "gondola down")
	if err := u.end(syscall.SIGKILL); err == nil {
		t.Error("SIGKILL is no error")
	}
	u = h.start(order{}) // the lock of the dead is no obstacle, regions are kept
	for _, r := range []string{"aaa", "bbb"} {
		if _, err := os.Stat(filepath.Join(h.data, "worker", r, "worker.db")); err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(h.data, "up.json")); err != nil || !strings.Contains(string(b), `"bbb"`) {
		t.Errorf("regions of the last time are not kept: %v\n%s", err, b)
	}
	if out, err := h.run(order{Command: "down"}); err != nil || !strings.Contains(out, "stopping the daemon") {
		t.Errorf("down while up runs: %v\n%s", err, out)
	}
	if err := u.wait(); err != nil {
		t.Errorf("up ended by down: %v\n%s", err, u.said())
	}
	if out, err := h.run(order{Command: "down"}); err != nil {
		t.Errorf("down again: %v\n%s", err, out)
	}
	u = h.start(order{})
	if out, err := h.run(order{Command: "down", Purge: true}); err != nil {
		t.Errorf("purge while up runs: %v\n%s", err, out)
	}
	if err := u.wait(); err != nil {
		t.Errorf("up ended by down --purge: %v\n%s", err, u.said())
	}
	h.clean()
	if out, err := h.run(order{Command: "down", Purge: true}); err != nil || !strings.Contains(out, "nothing to do") {
		t.Errorf("purge again: %v\n%s", err, out)
	}
}

// TestUp_ContainersReadWhatIsMadeForThem: images are unpacked for users of their own, whatever the umask of who starts the daemon.
func TestUp_ContainersReadWhatIsMadeForThem(t *testing.T) {
	h := newHost(t)
	defer unix.Umask(unix.Umask(0o077))
	u := h.start(order{})
	trees := filepath.Join(h.data, "images", "trees")
	if info, err := os.Stat(trees); err != nil {
		t.Error(err)
	} else if info.Mode().Perm() != 0o755 {
		t.Errorf("%s has mode %v, want 0755", trees, info.Mode())
	}
	if err := u.end(os.Interrupt); err != nil {
		t.Error(err)
	}
}

func TestPurge_OfWhatIsHalfThere(t *testing.T) {
	h := newHost(t)
	for name, breakIt := range map[string]func(){
		"killed":           func() { _ = h.start(order{}).end(syscall.SIGKILL) },
		"only a lock file": func() { h.write("lock", "77\n") },
		"only a name":      func() { h.write("instance", "abcdefgh\n") },
		"no database": func() {
			_ = h.start(order{}).end(syscall.SIGKILL)
			_ = os.RemoveAll(filepath.Join(h.data, "server.db"))
		},
		"broken database": func() {
			_ = h.start(order{}).end(syscall.SIGINT)
			h.write("server.db", strings.Repeat("this is no database ", 1000))
		},
		"broken worker": func() {
			_ = h.start(order{}).end(syscall.SIGINT)
			h.write("worker/local/worker.db", strings.Repeat("this is no database ", 1000))
		},
	} {
		breakIt()
		if out, err := h.run(order{Command: "down", Purge: true}); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		h.clean()
	}
}

func (h *host) write(name, content string) {
	h.t.Helper()
	path := filepath.Join(h.data, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func TestUp_OnADamagedDataDirectory(t *testing.T) {
	h := newHost(t)
	_ = h.start(order{}).end(syscall.SIGINT)
	instance, err := os.ReadFile(filepath.Join(h.data, "instance"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("instance", "what is this\n")
	h.fails(order{Command: "up"}, filepath.Join(h.data, "instance"), "damaged")
	h.write("instance", string(instance))
	db, err := os.ReadFile(filepath.Join(h.data, "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("server.db", strings.Repeat("this is no database ", 1000))
	h.fails(order{Command: "up"}, "server.db")
	h.write("server.db", string(db))
	_ = h.start(order{}).end(syscall.SIGINT)
}

func TestUp_NeverLeavesOutARegionWithMachines(t *testing.T) {
	h := newHost(t)
	both := order{Config: daemon.Config{Regions: []gondola.Region{"aaa", "bbb"}}}
	one := order{Command: "up", Config: daemon.Config{Regions: []gondola.Region{"aaa"}}}
	_ = h.start(both).end(syscall.SIGINT)
	_ = h.start(one).end(syscall.SIGINT) // no Machine: nothing is lost
	w, err := store.OpenWorker(filepath.Join(h.data, "worker", "bbb", "worker.db"))
	if err != nil {
		t.Fatal(err)
	}
	m := store.Machine{ID: "12345678901234", App: "shop", Name: "web", Number: 1, State: gondola.Stopped, Target: gondola.Stopped, Version: "v1", Config: &gondola.Config{Image: "x"}, Detail: []byte("{}"),
		CreatedAt: time.Now(), UpdatedAt: time.Now()}
	if err := errors.Join(w.Create(t.Context(), m, nil), w.Close()); err != nil {
		t.Fatal(err)
	}
	h.fails(one, "bbb", "1 Machines", "gondola up --region aaa --region bbb")
	_ = h.start(both).end(syscall.SIGINT) // the way out that it names
	h.fails(one, "bbb")
}

func TestUp_WithAClusterThatFails(t *testing.T) {
	h := newHost(t)
	h.fails(order{Command: "up", FailCluster: true}, "Kubernetes: no cluster today")
	if _, err := os.Stat(filepath.Join(h.data, "instance")); err != nil {
		t.Errorf("the platform had served by then, and is gone: %v", err)
	}
	_ = h.start(order{}).end(syscall.SIGINT)
}

func TestUp_ServicesKeepOffTheHostsNetworks(t *testing.T) {
	h := newHost(t)
	h.ip("-n", h.netns, "link", "add", "lan", "type", "veth", "peer", "name", "lan-peer")
	h.ip("-n", h.netns, "link", "set", "lan", "up")
	h.ip("-n", h.netns, "address", "add", "10.43.7.1/24", "dev", "lan")
	cluster := order{Command: "up", FailCluster: true}
	h.fails(cluster, "Services [10.44.0.0/16 ")
	h.ip("-n", h.netns, "address", "add", "10.45.7.1/24", "dev", "lan")
	h.ip("-n", h.netns, "address", "del", "10.43.7.1/24", "dev", "lan")
	h.fails(cluster, "Services [10.44.0.0/16 ") // for good
	h.ip("-n", h.netns, "address", "add", "10.44.7.1/24", "dev", "lan")
	h.fails(cluster, "10.44.0.0/16", "10.44.7.", "--no-kubernetes")
	_ = h.start(order{}).end(syscall.SIGINT) // which it names
	h.ip("-n", h.netns, "address", "del", "10.44.7.1/24", "dev", "lan")

	// A cluster of a release that knew no choice has the first.
	if out, err := h.run(order{Command: "down", Purge: true}); err != nil {
		t.Fatalf("purge: %v\n%s", err, out)
	}
	_ = h.start(order{}).end(syscall.SIGINT)
	h.write("clusters/main/state.db", "")
	h.ip("-n", h.netns, "address", "add", "10.43.7.1/24", "dev", "lan")
	h.fails(cluster, "10.43.0.0/16", "10.43.7.")
}

// asMachine is what the daemon answers a pilot that brings a request of a Machine.
func (h *host) asMachine(name, path string) (status int) {
	h.t.Helper()
	instance, err := os.ReadFile(filepath.Join(h.data, "instance"))
	if err != nil {
		h.t.Fatal(err)
	}
	socket := filepath.Join("/run/gondola", strings.TrimSpace(string(instance)), "api")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		h.t.Errorf("%s: %v, %v, want a socket that only root can use", socket, info, err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(h.t.Context(), "GET", "http://gondola"+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set(gondola.MachineHeader, name)
	resp, err := c.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestUp_TakesWhatPilotsBring(t *testing.T) {
	h := newHost(t)
	for _, end := range []os.Signal{syscall.SIGKILL, os.Interrupt} { // the first leaves its socket behind
		u := h.start(order{})
		if got := h.asMachine("shop/0123456789abcd", "/v1/apps/shop/machines/0123456789abcd"); got != 404 {
			t.Errorf("GET of a machine that is not there, by itself = %d, want 404", got)
		}
		if got := h.asMachine("shop/0123456789abcd", "/v1/apps"); got != 403 {
			t.Errorf("GET of all apps by a machine = %d, want 403", got)
		}
		_ = u.end(end)
	}
}
