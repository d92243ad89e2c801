package host_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/host"
	"gondola/internal/network"
	"gondola/internal/worker"
)

// wires is a Network that only remembers.
type wires struct {
	services map[string][]gondola.VirtualService
	mu       sync.Mutex
	attached map[gondola.MachineID]network.Machine
	fresh    []gondola.MachineID
	fail     error
}

func (w *wires) Attach(_ context.Context, m network.Machine, fresh bool) (network.Attached, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return network.Attached{}, w.fail
	}
	if w.attached == nil {
		w.attached = map[gondola.MachineID]network.Machine{}
	}
	w.attached[m.ID] = m
	if fresh {
		w.fresh = append(w.fresh, m.ID)
	}
	return network.Attached{NetNS: "/run/netns/x-" + string(m.ID), Addresses: w.Addresses(m)}, nil
}

func (w *wires) Addresses(network.Machine) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.64.16.1")}
}

func (w *wires) Keep(context.Context, network.Machine) error { return nil }

func (w *wires) Detach(_ context.Context, id gondola.MachineID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.attached, id)
	return nil
}

func (w *wires) Attached() ([]gondola.MachineID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []gondola.MachineID
	for id := range w.attached {
		ids = append(ids, id)
	}
	return ids, nil
}

func (w *wires) SetPolicies(context.Context, string, string, gondola.PolicySet) error { return nil }
func (w *wires) Describe(context.Context, gondola.PolicySubject) error                { return nil }
func (w *wires) Forget(gondola.MachineID)                                             {}

func (w *wires) SetServices(context.Context, string, []gondola.VirtualService) error { return nil }

func (w *wires) SetAppServices(_ context.Context, services map[string][]gondola.VirtualService) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.services = services
	return nil
}

func (w *wires) CheckAppService(string, gondola.VirtualService) error { return nil }

func (w *wires) Entrance() (gondola.Entrance, error) { return gondola.Entrance{}, nil }
func (w *wires) GatewayAddresses(network, name string) []netip.Addr {
	if network == "blue" && name == "one" {
		return []netip.Addr{netip.MustParseAddr("10.127.240.65"), netip.MustParseAddr("fdaa:ffff::1:2")}
	}
	return nil
}

type bench struct {
	dir, run string
	net      *wires
	host     *host.Host
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	// A blank in the path: mountinfo escapes it.
	b := &bench{dir: filepath.Join(t.TempDir(), "my data"), run: t.TempDir(), net: &wires{}}
	t.Cleanup(func() {
		if left := mounts(t, b.dir); len(left) > 0 {
			t.Errorf("mounts left: %q", left)
			for _, p := range left {
				unix.Unmount(p, unix.MNT_DETACH)
			}
		}
	})
	b.open(t)
	return b
}

func (b *bench) open(t *testing.T) {
	t.Helper()
	var err error
	b.host, err = host.Open(host.Config{DataDir: b.dir, Instance: "test0001", Network: b.net, RunRoot: b.run})
	if err != nil {
		t.Fatal(err)
	}
}

// mounts lists the mount points below dir, as another program sees them.
func mounts(t *testing.T, dir string) []string {
	t.Helper()
	out, err := exec.Command("findmnt", "-rno", "TARGET").Output()
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for line := range strings.Lines(string(out)) {
		p := strings.ReplaceAll(strings.TrimSpace(line), `\x20`, " ")
		if strings.HasPrefix(p, dir+"/") {
			points = append(points, p)
		}
	}
	slices.Reverse(points)
	return points
}

func machine(id string) worker.HostMachine {
	return worker.HostMachine{ID: gondola.MachineID(id), Number: 7, Network: "personal", NetworkID: 3}
}

func TestPrepare_MakesThePlacesOfAMachineAndKeepsThemWhenDoneAgain(t *testing.T) {
	b := newBench(t)
	w := b.host.ForWorker("fra", 2, gondola.Resources{})
	p, err := w.Prepare(t.Context(), machine("aa01"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Release(context.Background(), "aa01", true)
	want := worker.Prepared{
		NetNS: "/run/netns/x-aa01", Addresses: p.Addresses,
		Dir: b.dir + "/machines/aa01", RunDir: b.dir + "/machines/aa01/run", Socket: b.run + "/test0001/aa01.sock", Cgroup: "gondola/test0001/aa01", API: b.run + "/test0001/api",
	}
	if fmt.Sprint(p) != fmt.Sprint(want) || len(p.Addresses) != 1 {
		t.Errorf("Prepare = %+v, want %+v", p, want)
	}
	if m := b.net.attached["aa01"]; !reflect.DeepEqual(m, network.Machine{ID: "aa01", Worker: 2, Number: 7, Network: "personal", NetworkID: 3}) {
		t.Errorf("attached as %+v", m)
	}
	for _, d := range []string{p.Dir, p.RunDir, filepath.Dir(p.Socket)} {
		if fi, err := os.Stat(d); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want mode 0700", d, fi.Mode(), err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.RunDir, &st); err != nil || st.Type != unix.TMPFS_MAGIC || int64(st.Blocks)*st.Bsize != 64<<20 {
		t.Errorf("run directory: type %x, %d bytes, %v", st.Type, int64(st.Blocks)*st.Bsize, err)
	}
	if err := unix.Mkfifo(p.RunDir+"/fifo", 0o600); err != nil {
		t.Errorf("a FIFO in the run directory: %v", err)
	}
	if err := os.WriteFile(p.Dir+"/journal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Prepare(t.Context(), machine("aa01"), false); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{p.RunDir + "/fifo", p.Dir + "/journal"} {
		if _, err := os.Lstat(f); err != nil {
			t.Errorf("after a second Prepare: %v", err)
		}
	}
	if got := mounts(t, b.dir); len(got) != 1 {
		t.Errorf("mounts after two Prepares: %q", got)
	}
	if len(b.net.fresh) != 1 {
		t.Errorf("network made anew %d times, want once", len(b.net.fresh))
	}
}

func TestPrepare_ThatFailsLeavesNothing(t *testing.T) {
	b := newBench(t)
	w := b.host.ForWorker("fra", 1, gondola.Resources{})
	b.net.fail = gondola.Errorf(gondola.ErrUnsupported, "no veth here")
	if _, err := w.Prepare(t.Context(), machine("aa01"), true); !errors.Is(err, gondola.ErrUnsupported) || !strings.Contains(err.Error(), "aa01") {
		t.Errorf("Prepare = %v", err)
	}
	if left, _ := os.ReadDir(b.dir + "/machines"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := w.Prepare(t.Context(), machine("../../etc"), true); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("an id that leads elsewhere: %v", err)
	}
}

func TestRelease_TakesAwayMountsDeepestFirstAndKeepsTheDiskUnlessTold(t *testing.T) {
	b := newBench(t)
	w := b.host.ForWorker("fra", 1, gondola.Resources{})
	p, err := w.Prepare(t.Context(), machine("aa01"), true)
	if err != nil {
		t.Fatal(err)
	}
	// A neighbour whose id begins the same.
	if _, err := w.Prepare(t.Context(), machine("aa011"), true); err != nil {
		t.Fatal(err)
	}
	defer w.Release(context.Background(), "aa011", true)
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/precious", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct{ src, at string }{{"", p.RunDir + "/rootfs"}, {"", p.RunDir + "/rootfs/deep"}, {outside, p.Dir + "/volume"}} {
		if err := os.MkdirAll(m.at, 0o700); err != nil {
			t.Fatal(err)
		}
		if m.src == "" {
			err = unix.Mount("t", m.at, "tmpfs", 0, "size=1m")
		} else {
			err = unix.Mount(m.src, m.at, "", unix.MS_BIND, "")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	busy, err := os.Create(p.RunDir + "/rootfs/deep/open") // as a process that will not let go
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := os.WriteFile(p.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.Release(t.Context(), "aa01", false); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, p.Dir); len(got) != 0 {
		t.Errorf("still mounted: %q", got)
	}
	if _, err := os.Stat(p.Dir); err != nil {
		t.Errorf("the disk went without being told: %v", err)
	}
	if _, err := os.Stat(p.Socket); !os.IsNotExist(err) {
		t.Errorf("socket: %v", err)
	}
	if _, there := b.net.attached["aa01"]; there {
		t.Error("still attached")
	}
	for range 2 {
		if err := w.Release(t.Context(), "aa01", true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(p.Dir); !os.IsNotExist(err) {
		t.Errorf("directory: %v", err)
	}
	if _, err := os.Stat(outside + "/precious"); err != nil {
		t.Errorf("Release went through a mount: %v", err)
	}
	if got := mounts(t, b.dir+"/machines/aa011"); len(got) != 1 {
		t.Errorf("the neighbour has mounts %q, want its one", got)
	}
}

func TestLeftovers_AreTheWorkersOwnAndWhatBelongsToNobody(t *testing.T) {
	b := newBench(t)
	fra, ams := b.host.ForWorker("fra", 1, gondola.Resources{}), b.host.ForWorker("ams", 2, gondola.Resources{})
	for w, id := range map[*host.WorkerHost]string{fra: "f1", ams: "a1"} {
		if _, err := w.Prepare(t.Context(), machine(id), true); err != nil {
			t.Fatal(err)
		}
		defer w.Release(context.Background(), gondola.MachineID(id), true)
	}
	if _, err := ams.Prepare(t.Context(), machine("f1"), true); !errors.Is(err, gondola.ErrConflict) {
		t.Errorf("a Machine of another worker: %v", err)
	}
	// As crashes leave them: a network, a socket and a directory without a name of a worker; and one being made.
	b.net.attached["dead1"] = network.Machine{}
	if err := os.WriteFile(b.run+"/test0001/dead2.sock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.dir+"/machines/dead3/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.dir+"/machines/.new-123", 0o700); err != nil {
		t.Fatal(err)
	}
	b.open(t)
	fra = b.host.ForWorker("fra", 1, gondola.Resources{})
	got, err := fra.Leftovers(t.Context())
	if want := "[dead1 dead2 dead3 f1]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("Leftovers = %v, %v, want %s", got, err, want)
	}
	for _, id := range got {
		if err := fra.Release(t.Context(), id, true); err != nil {
			t.Error(err)
		}
	}
	if got, err := fra.Leftovers(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("Leftovers after releasing them = %v, %v", got, err)
	}
	if left, _ := os.ReadDir(b.dir + "/machines"); len(left) != 1 || left[0].Name() != "a1" {
		t.Errorf("machines holds %v", left)
	}
}

func TestPurge_RemovesTheInstanceWithoutAnyRecord(t *testing.T) {
	b := newBench(t)
	w := b.host.ForWorker("fra", 1, gondola.Resources{})
	instance := fmt.Sprintf("hosttest%d", os.Getpid())
	if _, err := w.Prepare(t.Context(), machine("aa01"), true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.dir+"/instance", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A process in a cgroup of the instance, in every hierarchy there is.
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	var groups []string
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for _, root := range append(roots, "/sys/fs/cgroup/cgroup.procs") {
		g := filepath.Join(filepath.Dir(root), "gondola", instance, "aa01", "sandbox")
		if _, err := os.Stat(root); err != nil || strings.Contains(root, "cpuset") {
			continue
		}
		if err := os.MkdirAll(g, 0o755); err != nil {
			t.Logf("%s: %v", g, err)
			continue
		}
		if err := os.WriteFile(g+"/cgroup.procs", fmt.Append(nil, sleeper.Process.Pid), 0); err != nil {
			t.Logf("%s: %v", g, err)
		}
		groups = append(groups, filepath.Dir(filepath.Dir(g)))
	}
	ended := make(chan error, 1)
	go func() { ended <- sleeper.Wait() }()
	if err := host.Purge(t.Context(), b.dir, instance); err != nil {
		sleeper.Process.Kill()
		t.Error(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process in the cgroup ended with %v, want killed", err)
	}
	if len(groups) == 0 {
		t.Error("no cgroup could be made")
	}
	for _, g := range groups {
		if _, err := os.Stat(g); !os.IsNotExist(err) {
			t.Errorf("%s: %v", g, err)
		}
	}
	if got := mounts(t, b.dir); len(got) != 0 {
		t.Errorf("mounted: %q", got)
	}
	if left, _ := os.ReadDir(b.dir); len(left) != 1 || left[0].Name() != "instance" {
		t.Errorf("left in the data directory: %v", left)
	}
	if err := host.Purge(t.Context(), b.dir, instance); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := host.Purge(t.Context(), b.dir, ""); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("of no instance: %v", err)
	}
}

func TestTotal_LeavesSomethingToTheSystem(t *testing.T) {
	b := newBench(t)
	all := b.host.Total()
	if all.MemoryBytes <= 0 || all.CPUMillis < 1000 {
		t.Errorf("Total = %v", all)
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		t.Fatal(err)
	}
	if has := int64(si.Totalram) * int64(si.Unit); all.MemoryBytes > has-256<<20 {
		t.Errorf("Total is %d of %d bytes: nothing is left to the system", all.MemoryBytes, has)
	}
	share := gondola.Resources{CPUMillis: 500, MemoryBytes: 1 << 30}
	ip := netip.MustParseAddr("10.64.0.9")
	w := b.host.ForWorker("fra", 1, share, ip)
	if w.Total() != share || len(w.IPs()) != 1 || w.IPs()[0] != ip {
		t.Errorf("Total = %v, IPs = %v", w.Total(), w.IPs())
	}
}

func TestChecks_FindThisMachineFitAndLeaveNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the checks try mounts and namespaces, which need root")
	}
	dir := t.TempDir() // other tests mount things at the same time, elsewhere
	t.Setenv("TMPDIR", dir)
	for _, c := range host.Checks() {
		t.Logf("%-20s ok=%-5v %s", c.Name, c.OK, c.Detail)
		if c.Name == "" || c.Detail == "" || !c.OK && c.Remedy == "" || c.OK && c.Remedy != "" {
			t.Errorf("check is not complete: %+v", c)
		}
		if c.Required && !c.OK {
			t.Errorf("%s: %s (%s)", c.Name, c.Detail, c.Remedy)
		}
	}
	if left := mounts(t, dir); len(left) > 0 {
		t.Errorf("the checks leave mounts: %v", left)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the checks leave %v, %v", left, err)
	}
}
