package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/network"
	"gondola/internal/store"
)

func put(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNameservers_OnlyThoseThatMachinesReach(t *testing.T) {
	dir := t.TempDir()
	stub := put(t, dir+"/stub", "nameserver 127.0.0.53\noptions edns0\n")
	behind := put(t, dir+"/behind", "# systemd\nnameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver 10.64.0.53\n"+
		"nameserver nonsense\nnameserver\nnameserver 2001:db8::1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n")
	machines := netip.MustParsePrefix("10.64.0.0/10")
	if got, want := nameservers(machines, stub, behind), []string{"192.0.2.1", "2001:db8::1", "192.0.2.2"}; !slices.Equal(got, want) {
		t.Errorf("nameservers = %v, want %v", got, want)
	}
	if got := nameservers(machines, stub, dir+"/none"); got != nil {
		t.Errorf("nameservers = %v where there are loopback ones only", got)
	}
}

// settled returns the addresses of the virtual nodes of regions, as an `up` on these data has them.
func settled(t *testing.T, data string, perRegion int, regions ...gondola.Region) map[string]netip.Addr {
	t.Helper()
	c, err := Config{Data: data, Regions: regions, NodesPerRegion: perRegion}.complete()
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{Options: Options{Config: c}}
	defer p.close()
	var nodes []NodeConfig
	if err = p.startServer(t.Context(), nil); err == nil {
		nodes, err = p.nodes()
	}
	if err == nil {
		err = p.keepRegions(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]netip.Addr{}
	for _, n := range nodes {
		out[n.Name] = n.Addresses[0]
	}
	return out
}

func TestNodes_KeepTheirAddressesWhateverIsBesideThem(t *testing.T) {
	one, two, three := netip.MustParseAddr("10.127.240.65"), netip.MustParseAddr("10.127.240.66"), netip.MustParseAddr("10.127.240.67")
	want := func(what string, got, want map[string]netip.Addr) {
		t.Helper()
		if !maps.Equal(got, want) {
			t.Errorf("%s: nodes at %v, want %v", what, got, want)
		}
	}
	data := t.TempDir()
	want("the first", settled(t, data, 1, "ams"), map[string]netip.Addr{"ams": one})
	want("one in front of it", settled(t, data, 1, "fra", "ams"), map[string]netip.Addr{"fra": two, "ams": one})
	want("the first away", settled(t, data, 1, "fra"), map[string]netip.Addr{"fra": two})
	want("another in its place", settled(t, data, 1, "lhr", "fra"), map[string]netip.Addr{"lhr": three, "fra": two})
	want("the first again", settled(t, data, 1, "fra", "ams"), map[string]netip.Addr{"fra": two, "ams": one})

	// A release that kept no numbers went by the order of its regions.
	data = t.TempDir()
	db, err := store.OpenServer(filepath.Join(data, "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.SetSetting(t.Context(), settingRegions, `["fra","ams"]`), db.Close()); err != nil {
		t.Fatal(err)
	}
	want("after an upgrade", settled(t, data, 1, "ams", "lhr", "fra"), map[string]netip.Addr{"fra": one, "ams": two, "lhr": three})

	want("two of each", settled(t, t.TempDir(), 2, "ams"), map[string]netip.Addr{"ams-1": one, "ams-2": two})
}

func TestNodes_OfManyRegionsThatWereAreForgotten(t *testing.T) {
	kept := map[string]int{}
	for i := range 2 * network.MaxNodes {
		names := []string{"ams", fmt.Sprint("new", i)}
		kept = numberNodes(kept, names)
		if n := kept[names[1]]; kept["ams"] != 1 || n < 2 || n > network.MaxNodes {
			t.Fatalf("numbers %v, want ams at 1 all the time and %s at another that there is", kept, names[1])
		}
	}
}

func TestLog_BeginsANewFileWhenFull(t *testing.T) {
	dir := t.TempDir()
	l, err := openLog(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 39) + "\n"
	for range 10 {
		if n, err := io.WriteString(l, line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"gondola.log", "gondola.log.1"} {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil || len(b) != 80 {
			t.Errorf("%s has %d bytes (%v), want two lines of 40", f, len(b), err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("%d files, want 2", len(entries))
	}
}

func TestRemoveOldPilots_KeepsThoseThatRun(t *testing.T) {
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	running := put(t, dir+"/bin/gondola-pilot-running", string(program))
	old, current := put(t, dir+"/bin/gondola-pilot-old", "old"), put(t, dir+"/bin/gondola-pilot-current", "current")
	c := exec.Command(running, "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	removeOldPilots(dir, current, slog.New(slog.DiscardHandler))
	for path, want := range map[string]bool{running: true, current: true, old: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
}

func TestLock_SaysWhoHasItAndNeverGuesses(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/lock", "1 up\n") // of a process before whose id another has by now
	if h := holderOf(dir); h.pid != 0 {
		t.Errorf("a stale lock file is taken for %+v", h)
	}
	release, err := lock(dir, "up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir, "down"); err == nil || !strings.Contains(err.Error(), "gondola down") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second lock: %v", err)
	}
	if h := holderOf(dir); h.pid != os.Getpid() || h.command != "up" {
		t.Errorf("the holder is %+v, want this process", h)
	}
	release()
	if release, err = lock(dir, "down"); err != nil {
		t.Fatal(err)
	}
	release()
}
