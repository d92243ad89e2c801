package test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	registries "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/client"
)

// crashed is a host whose daemon and pilots are killed.
type crashed struct {
	*host
	t       *testing.T
	ctx     context.Context
	api     *client.Client
	http    *http.Transport
	armed   string // file that names the point
	base    v1.Image
	image   string // reference of the round's image, which no round before had
	rules   int    // elements in the firewall's sets while there is no Machine
	room    gondola.Resources
	kept    bool   // the Volume has data
	ids     ids    // of this round
	driver  string // of this round's Machine; empty: the default
	images  int    // made so far
	doubled string // what ran twice
}

// ids are those that requests for Volumes name, so that they can be made again.
type ids struct {
	data, extra gondola.VolumeID
	snapshot    string
}

func newIDs() ids { return ids{gondola.NewVolumeID(), gondola.NewVolumeID(), gondola.NewSnapshotID()} }

func newCrashed(t *testing.T) *crashed {
	c := &crashed{host: newHost(t, "gdpoint"), t: t, ctx: t.Context(), ids: newIDs()}
	c.armed = filepath.Join(c.home, "armed")
	c.env = []string{"GONDOLA_FAILPOINT=@" + c.armed}
	c.http = &http.Transport{DialContext: c.dial}
	t.Cleanup(c.hangUp)
	// Recovery is not to wait until the client may ask again.
	config := filepath.Join(c.home, "gondola.yaml")
	if err := os.WriteFile(config, []byte("rateLimits: {unlimited: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(t, "--no-kubernetes", "--region", "aaa", "--allow-driver", "runc", "--config", config)
	token, err := os.ReadFile(filepath.Join(c.data, "token"))
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(client.Config{URL: "http://127.0.0.1:4280", Token: strings.TrimSpace(string(token)), HTTP: &http.Client{Transport: c.http}})
	if err != nil {
		t.Fatal(err)
	}
	c.api = api
	c.serveImages()
	if _, err := api.CreateApp(c.ctx, gondola.NewApp{Name: app}); err != nil {
		t.Fatal(err)
	}
	// Once, so that what stays for good is there: the App's network and the built-in image.
	if err := errors.Join(c.makeMachine(), c.destroyAll()); err != nil {
		t.Fatal(err)
	}
	if err := c.await(func(c *crashed, _ context.Context) string { return c.remains() }); err != nil {
		t.Fatal(err)
	}
	if c.rules, err = c.elements(); err != nil {
		t.Fatal(err)
	}
	if c.room, err = c.free(); err != nil {
		t.Fatal(err)
	}
	return c
}

// inside calls f on a thread in the host's network namespace.
func (h *host) inside(f func() error) error { return inside("/run/netns/"+h.netns, f) }

func inside(netns string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		ns, err := os.Open(netns)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func (h *host) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.inside(func() error {
		conn, err = (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (c *crashed) hangUp() { c.http.CloseIdleConnections() }

// get asks for a page, over a connection of its own.
func (c *crashed) get(ctx context.Context, url string) (code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Close = true
	res, err := (&http.Client{Transport: c.http}).Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// arm makes the next process that reaches the point die.
func (c *crashed) arm(point string) {
	_ = os.Remove(c.armed + ".hit")
	if err := os.WriteFile(c.armed+".new", []byte(point), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.armed+".new", c.armed); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crashed) disarm() { _ = os.Remove(c.armed) }

func (c *crashed) await(wrong func(*crashed, context.Context) string) error {
	return c.awaitFor(wrong, 20*time.Second)
}

// awaitFor waits until nothing is wrong.
func (c *crashed) awaitFor(wrong func(*crashed, context.Context) string, within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
		what := wrong(c, ctx)
		cancel()
		if what == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %s", within, what)
		}
		pause(20 * time.Millisecond)
	}
}

// processes says what is wrong with the processes of the one Machine, and notes sandboxes that run twice.
func (c *crashed) processes(m gondola.Machine) string {
	want := 0
	if m.State == gondola.Started {
		want = 1
	}
	ids := c.running(m.ID)
	if what := twice(ids); what != "" {
		c.doubled = "there are two " + what + " of machine " + string(m.ID)
	}
	for _, kind := range []string{"pilots", "sandboxes"} {
		if got := ids[kind]; len(got) != want || want == 1 && got[0] != m.ID {
			return fmt.Sprintf("%s of %v while machine %s is %s", kind, got, m.ID, m.State)
		}
	}
	return ""
}

// running are the Machines of the processes that there are, by kind.
func (c *crashed) running(id gondola.MachineID) map[string][]gondola.MachineID {
	ids := c.leftoverIDs(c.t)
	if c.driver != "" {
		for range c.pauseOf(id) {
			ids["sandboxes"] = append(ids["sandboxes"], id)
		}
	}
	return ids
}

// twice names a kind of which there must not be two.
func twice(ids map[string][]gondola.MachineID) string {
	for _, kind := range []string{"sandboxes", "monitors"} {
		if len(ids[kind]) > 1 {
			return kind
		}
	}
	return ""
}

// destroyAll destroys Machines, Volumes and snapshots, and removes images.
func (c *crashed) destroyAll() error {
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	machines, err := c.api.List(ctx, "", gondola.ListFilter{})
	if err != nil {
		return err
	}
	for _, m := range machines {
		if err := c.api.Destroy(ctx, gondola.Ref{App: app, ID: m.ID}, true); err != nil {
			return err
		}
	}
	return c.await(func(c *crashed, ctx context.Context) string {
		volumes, err := c.api.ListVolumes(ctx, app)
		for _, v := range volumes {
			ref := gondola.VolumeRef{App: app, ID: v.ID}
			snapshots, e := c.api.ListSnapshots(ctx, ref)
			for _, s := range snapshots {
				e = errors.Join(e, c.api.DeleteSnapshot(ctx, ref, s.ID))
			}
			_, e2 := c.api.PurgeVolume(ctx, ref)
			err = errors.Join(err, e, e2)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

// clean says what is left although there is no Machine and no Volume.
func (c *crashed) clean(ctx context.Context) string {
	if left := c.remains(); left != "" {
		return left
	}
	if rules, err := c.elements(); err != nil || rules != c.rules {
		return fmt.Sprintf("the firewall has %d elements, %v; before there were %d", rules, err, c.rules)
	}
	if room, err := c.free(); err != nil || room != c.room {
		return fmt.Sprintf("free are %v, %v; before it was %v", room, err, c.room)
	}
	return ""
}

// remains lists what is on the host of Machines and Volumes.
func (c *crashed) remains() string {
	var left []string
	for kind, ids := range c.leftoverIDs(c.t) {
		if len(ids) > 0 {
			left = append(left, fmt.Sprintf("%s of %v", kind, ids))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for l := range strings.Lines(string(mounts)) {
		if strings.Contains(l, c.data) {
			left = append(left, "mount "+strings.TrimSpace(l))
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), c.data) {
			left = append(left, l+" on "+strings.TrimSpace(string(b)))
		}
	}
	for _, dir := range []string{"machines", "volumes", "images/tmp"} {
		entries, err := os.ReadDir(filepath.Join(c.data, dir))
		if err != nil {
			left = append(left, err.Error())
		}
		for _, e := range entries {
			left = append(left, filepath.Join(dir, e.Name()))
		}
	}
	// Addresses that no Machine has lead to lo, as long as the host's network stands; those that one has, to its own link.
	for _, look := range [][]string{{"-o", "-d", "link", "show", "type", "veth"}, {"route", "show", "root", "10.64.0.0/10"}} {
		out, err := exec.Command("ip", append([]string{"-n", c.netns}, look...)...).Output()
		if err != nil {
			left = append(left, fmt.Sprintf("ip %s: %v", strings.Join(look, " "), err))
		}
		for l := range strings.Lines(string(out)) {
			if !isGateway(l) && !strings.HasPrefix(l, gatewayAddress+" ") && !strings.Contains(l, " dev lo ") {
				left = append(left, fmt.Sprintf("ip %s: %s", strings.Join(look, " "), strings.TrimSpace(l)))
			}
		}
	}
	slices.Sort(left)
	return strings.Join(left, "\n")
}

// gatewayAddress is that of the gateway of region aaa.
const gatewayAddress = "10.127.240.65"

// elements counts what is in the sets and maps of the firewall, and of that in the gateway.
func (c *crashed) elements() (n int, err error) {
	gateways, err := filepath.Glob("/run/netns/gondola-*-gateway.main.aaa")
	if err != nil {
		return 0, err
	}
	instance, err := os.ReadFile(filepath.Join(c.data, "instance"))
	if err != nil {
		return 0, err
	}
	gateways = slices.DeleteFunc(gateways, func(g string) bool { return !strings.Contains(g, strings.TrimSpace(string(instance))) })
	for _, ns := range append(gateways, "/run/netns/"+c.netns) {
		there, err := c.elementsIn(ns)
		if n += there; err != nil {
			return n, err
		}
	}
	return n, nil
}

func (c *crashed) elementsIn(netns string) (n int, err error) {
	err = inside(netns, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if err != nil {
			return err
		}
		for _, table := range tables {
			sets, err := conn.GetSets(table)
			if err != nil {
				return err
			}
			for _, s := range sets {
				if s.Anonymous {
					continue
				}
				elements, err := conn.GetSetElements(s)
				if err != nil {
					return err
				}
				n += len(elements)
			}
		}
		return nil
	})
	return n, err
}

// free asks the market for what there is.
func (c *crashed) free() (gondola.Resources, error) {
	a, err := c.api.Ask(c.ctx, gondola.Ask{})
	if err != nil {
		return gondola.Resources{}, err
	}
	if len(a.Bids) != 1 {
		return gondola.Resources{}, fmt.Errorf("the market gives %d bids", len(a.Bids))
	}
	return a.Bids[0].Free, nil
}

const registryAddress = "127.0.0.1:5000" // in the host

// serveImages serves a registry.
func (c *crashed) serveImages() {
	program, err := os.ReadFile(filepath.Join("..", "bin", "gondola-hello"))
	if err == nil {
		c.base, err = imageOf(program)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	var l net.Listener
	if err := c.inside(func() (err error) { l, err = net.Listen("tcp", registryAddress); return err }); err != nil {
		c.t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go server.Serve(l)
	c.t.Cleanup(func() { server.Close() })
}

// newImage makes an image that is like no other but for its layer.
func (c *crashed) newImage() (v1.Image, name.Tag, error) {
	c.images++
	tag, err := name.NewTag(fmt.Sprintf("%s/crash:%d", registryAddress, c.images))
	if err != nil {
		return nil, tag, err
	}
	c.image = tag.Name()
	config, err := c.base.ConfigFile()
	if err != nil {
		return nil, tag, err
	}
	config = config.DeepCopy()
	config.Config.Labels = map[string]string{"number": fmt.Sprint(c.images)}
	img, err := mutate.ConfigFile(c.base, config)
	return img, tag, err
}

func (c *crashed) archive() string { return filepath.Join(c.home, "image.tar") }

func (c *crashed) makeArchive() error {
	img, tag, err := c.newImage()
	if err != nil {
		return err
	}
	return tarball.WriteToFile(c.archive(), tag, img)
}

func (c *crashed) pushImage() error {
	img, tag, err := c.newImage()
	if err != nil {
		return err
	}
	return registries.Write(tag, img, registries.WithTransport(c.http))
}

func imageOf(program []byte) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(program)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/hello"}
	return mutate.ConfigFile(img, config)
}
