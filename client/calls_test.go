package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/client"
)

// call is one method of a Client, and whether its contract says that doing it again is harmless.
type call struct {
	name  string
	again bool
	do    func(ctx context.Context, c *client.Client) error
}

// drop keeps the error alone.
func drop[T any](_ T, err error) error { return err }

var disk = gondola.VolumeRef{App: "shop", ID: "vol_0123456789abcdef"}

// calls are all methods that send one request.
var calls = []call{
	{"Offered", true, func(ctx context.Context, c *client.Client) error { return drop(c.Offered(ctx)) }},
	{"CreateApp", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.CreateApp(ctx, gondola.NewApp{Name: "shop"}))
	}},
	{"App", true, func(ctx context.Context, c *client.Client) error { return drop(c.App(ctx, "shop")) }},
	{"ListApps", true, func(ctx context.Context, c *client.Client) error { return drop(c.ListApps(ctx, "")) }},
	{"DeleteApp", false, func(ctx context.Context, c *client.Client) error { return c.DeleteApp(ctx, "shop") }},
	{"Create", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.Create(ctx, "shop", gondola.CreateRequest{}))
	}},
	{"Get", true, func(ctx context.Context, c *client.Client) error { return drop(c.Get(ctx, ref)) }},
	{"List", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.List(ctx, "shop", gondola.ListFilter{}))
	}},
	{"List of all Apps", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.List(ctx, "", gondola.ListFilter{}))
	}},
	{"Update", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.Update(ctx, ref, gondola.UpdateRequest{}))
	}},
	{"Start", false, func(ctx context.Context, c *client.Client) error { return drop(c.Start(ctx, ref)) }},
	{"Stop", false, func(ctx context.Context, c *client.Client) error {
		return c.Stop(ctx, ref, gondola.StopRequest{})
	}},
	{"Suspend", false, func(ctx context.Context, c *client.Client) error { return c.Suspend(ctx, ref) }},
	{"Restart", false, func(ctx context.Context, c *client.Client) error {
		return c.Restart(ctx, ref, gondola.RestartRequest{})
	}},
	{"Signal", false, func(ctx context.Context, c *client.Client) error { return c.Signal(ctx, ref, "SIGHUP") }},
	{"Destroy", true, func(ctx context.Context, c *client.Client) error { return c.Destroy(ctx, ref, true) }},
	{"Wait", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.Wait(ctx, ref, gondola.WaitRequest{}))
	}},
	{"Exec", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.Exec(ctx, ref, gondola.ExecRequest{}))
	}},
	{"Events", true, func(ctx context.Context, c *client.Client) error { return drop(c.Events(ctx, ref, 0)) }},
	{"Processes", true, func(ctx context.Context, c *client.Client) error { return drop(c.Processes(ctx, ref)) }},
	{"Cordon", true, func(ctx context.Context, c *client.Client) error { return c.Cordon(ctx, ref) }},
	{"Uncordon", true, func(ctx context.Context, c *client.Client) error { return c.Uncordon(ctx, ref) }},
	{"Versions", true, func(ctx context.Context, c *client.Client) error { return drop(c.Versions(ctx, ref)) }},
	{"Metadata", true, func(ctx context.Context, c *client.Client) error { return drop(c.Metadata(ctx, ref)) }},
	{"SetMetadata", false, func(ctx context.Context, c *client.Client) error { return c.SetMetadata(ctx, ref, "", nil) }},
	{"ReplaceMetadata", false, func(ctx context.Context, c *client.Client) error { return c.ReplaceMetadata(ctx, ref, "", nil) }},
	{"MetadataValue", true, func(ctx context.Context, c *client.Client) error { return drop(c.MetadataValue(ctx, ref, "k")) }},
	{"SetMetadataValue", false, func(ctx context.Context, c *client.Client) error { return c.SetMetadataValue(ctx, ref, "k", "v") }},
	{"DeleteMetadataValue", false, func(ctx context.Context, c *client.Client) error { return c.DeleteMetadataValue(ctx, ref, "k") }},
	{"AcquireLease", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.AcquireLease(ctx, ref, gondola.LeaseRequest{}))
	}},
	{"Lease", true, func(ctx context.Context, c *client.Client) error { return drop(c.Lease(ctx, ref)) }},
	{"ReleaseLease", false, func(ctx context.Context, c *client.Client) error { return c.ReleaseLease(ctx, ref) }},
	{"CreateVolume", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.CreateVolume(ctx, "shop", gondola.CreateVolumeRequest{}))
	}},
	{"Volume", true, func(ctx context.Context, c *client.Client) error { return drop(c.Volume(ctx, disk)) }},
	{"ListVolumes", true, func(ctx context.Context, c *client.Client) error { return drop(c.ListVolumes(ctx, "shop")) }},
	{"ListVolumes of all Apps", true, func(ctx context.Context, c *client.Client) error { return drop(c.ListVolumes(ctx, "")) }},
	{"UpdateVolume", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.UpdateVolume(ctx, disk, gondola.UpdateVolumeRequest{}))
	}},
	{"ExtendVolume", false, func(ctx context.Context, c *client.Client) error { return drop(c.ExtendVolume(ctx, disk, 5)) }},
	{"DeleteVolume", true, func(ctx context.Context, c *client.Client) error { return drop(c.DeleteVolume(ctx, disk)) }},
	{"SnapshotVolume", false, func(ctx context.Context, c *client.Client) error { return drop(c.SnapshotVolume(ctx, disk, "")) }},
	{"ListSnapshots", true, func(ctx context.Context, c *client.Client) error { return drop(c.ListSnapshots(ctx, disk)) }},
	{"ListSnapshots of an App", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.ListSnapshots(ctx, gondola.VolumeRef{App: "shop"}))
	}},
	{"DeleteSnapshot", false, func(ctx context.Context, c *client.Client) error { return c.DeleteSnapshot(ctx, disk, "vs_1") }},
	{"PutNetworkPolicy", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.PutNetworkPolicy(ctx, "shop", gondola.NetworkPolicy{}))
	}},
	{"ListNetworkPolicies", true, func(ctx context.Context, c *client.Client) error { return drop(c.ListNetworkPolicies(ctx, "shop")) }},
	{"DeleteNetworkPolicy", false, func(ctx context.Context, c *client.Client) error { return c.DeleteNetworkPolicy(ctx, "shop", "p") }},
	{"ListSecrets", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.ListSecrets(ctx, "shop", gondola.SecretsQuery{}))
	}},
	{"Secret", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.Secret(ctx, "shop", "A", gondola.SecretsQuery{}))
	}},
	{"SetSecret", false, func(ctx context.Context, c *client.Client) error { return drop(c.SetSecret(ctx, "shop", "A", "a")) }},
	{"UpdateSecrets", false, func(ctx context.Context, c *client.Client) error { return drop(c.UpdateSecrets(ctx, "shop", nil)) }},
	{"DeleteSecret", false, func(ctx context.Context, c *client.Client) error { return drop(c.DeleteSecret(ctx, "shop", "A")) }},
	{"DeployToken", false, func(ctx context.Context, c *client.Client) error { return drop(c.DeployToken(ctx, "shop", time.Hour)) }},
	{"CurrentTokens", true, func(ctx context.Context, c *client.Client) error { return drop(c.CurrentTokens(ctx)) }},
	{"AuthenticateTokens", false, func(ctx context.Context, c *client.Client) error { return drop(c.AuthenticateTokens(ctx, "Bearer t")) }},
	{"AuthorizeTokens", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.AuthorizeTokens(ctx, "Bearer t", gondola.TokenAccess{}))
	}},
	{"Placements", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.Placements(ctx, gondola.PlacementsRequest{}))
	}},
	{"Regions", true, func(ctx context.Context, c *client.Client) error { return drop(c.Regions(ctx)) }},
	{"Ask", true, func(ctx context.Context, c *client.Client) error { return drop(c.Ask(ctx, gondola.Ask{})) }},
	{"Stats", true, func(ctx context.Context, c *client.Client) error {
		return drop(c.Stats(ctx, gondola.StatsRequest{}))
	}},
	{"PutPayload", true, func(ctx context.Context, c *client.Client) error { return c.PutPayload(ctx, ref, gondola.Payload{}) }},
	{"AddContainer", false, func(ctx context.Context, c *client.Client) error {
		return c.AddContainer(ctx, ref, gondola.AddContainerRequest{})
	}},
	{"Resize", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.Resize(ctx, ref, gondola.ResizeRequest{}))
	}},
	{"Memory", true, func(ctx context.Context, c *client.Client) error { return drop(c.Memory(ctx, ref)) }},
	{"SetMemory", false, func(ctx context.Context, c *client.Client) error { return drop(c.SetMemory(ctx, ref, 512)) }},
	{"SetServices", true, func(ctx context.Context, c *client.Client) error { return c.SetServices(ctx, "default", nil) }},
	{"SetPolicies", true, func(ctx context.Context, c *client.Client) error {
		return c.SetPolicies(ctx, "default", "test", gondola.PolicySet{})
	}},
	{"Entrances", true, func(ctx context.Context, c *client.Client) error { return drop(c.Entrances(ctx)) }},
	{"ListImages", true, func(ctx context.Context, c *client.Client) error { return drop(c.ListImages(ctx)) }},
	{"PruneImages", false, func(ctx context.Context, c *client.Client) error { return drop(c.PruneImages(ctx)) }},
	{"ImportImage", false, func(ctx context.Context, c *client.Client) error {
		return drop(c.ImportImage(ctx, strings.NewReader("tar"), ""))
	}},
}

// listener counts requests and answers them with answer.
type listener struct {
	mu     sync.Mutex
	got    []string // "METHOD /path"
	answer func(w http.ResponseWriter, r *http.Request)
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	l.mu.Lock()
	l.got = append(l.got, r.Method+" "+r.URL.Path)
	l.mu.Unlock()
	l.answer(w, r)
}

func (l *listener) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	got := l.got
	l.got = nil
	return got
}

func newListener(t *testing.T, retries int, answer func(w http.ResponseWriter, r *http.Request)) (*client.Client, *listener) {
	t.Helper()
	l := &listener{answer: answer}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	c, err := client.New(client.Config{URL: s.URL, Token: "t", Org: "personal", Retries: retries})
	if err != nil {
		t.Fatal(err)
	}
	return c, l
}

// cut takes a request, does what it says perhaps, and dies.
func cut(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		conn.Close()
	}
}

func TestRetries_NeverSendTwiceWhatMayNotBeDoneTwice(t *testing.T) {
	for why, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"the connection dies": cut,
		"503":                 func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"503, come again at once": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			c, l := newListener(t, 1, answer)
			for _, call := range calls {
				err := call.do(t.Context(), c)
				want := 1
				if call.again {
					want = 2
				}
				if got := l.take(); len(got) != want || err == nil {
					t.Errorf("%s was sent as %v and returned %v, want it %d times and an error", call.name, got, err, want)
				}
			}
		})
	}
}

func TestRetries_AreNoneByDefault(t *testing.T) {
	c, l := newListener(t, 0, cut)
	for _, call := range calls {
		if err := call.do(t.Context(), c); !errors.Is(err, gondola.ErrUnavailable) {
			t.Errorf("%s = %v, want unavailable", call.name, err)
		}
		if got := l.take(); len(got) != 1 {
			t.Errorf("%s was sent as %v", call.name, got)
		}
	}
}

func TestRetries_GoWellWhenTheServerIsBack(t *testing.T) {
	tries := 0
	c, _ := newListener(t, 5, func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries < 3 {
			cut(w, r)
			return
		}
		io.WriteString(w, `{"id":"0123456789abcd","name":"web"}`)
	})
	if m, err := c.Get(t.Context(), ref); err != nil || m.Name != "web" || tries != 3 {
		t.Errorf("Get = %+v, %v after %d tries", m, err, tries)
	}
}

func TestRetries_WaitAsLongAsTheServerSays(t *testing.T) {
	var at []time.Time
	c, _ := newListener(t, 5, func(w http.ResponseWriter, _ *http.Request) {
		if at = append(at, time.Now()); len(at) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, `{}`)
	})
	if _, err := c.Get(t.Context(), ref); err != nil || len(at) != 2 || at[1].Sub(at[0]) < time.Second {
		t.Errorf("Get = %v, sent at %v", err, at)
	}
}

func TestRetries_EndWithTheContext(t *testing.T) {
	c, _ := newListener(t, 1000, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := c.Get(ctx, ref); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("Get = %v after %s", err, time.Since(began))
	}
}

// TestClient_HasEveryOperationThatIsServed walks the table of docs/api.md.
func TestClient_HasEveryOperationThatIsServed(t *testing.T) {
	c, l := newListener(t, 0, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	sent := map[string]bool{}
	for _, call := range calls {
		_ = call.do(t.Context(), c)
		for _, r := range l.take() {
			sent[r] = true
		}
	}
	text, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("{app}", "shop", "{id}", string(ref.ID), "{volume}", string(disk.ID), "{key}", "k", "{name}", "A", "{org}", "personal", "{policy}", "p")
	rows := regexp.MustCompile(`(?m)^\| ((?:GET|POST|PUT|PATCH|DELETE) \S+) \| yes \|`).FindAllStringSubmatch(string(text), -1)
	if len(rows) < 40 {
		t.Fatalf("docs/api.md has only %d operations that are served", len(rows))
	}
	for _, row := range rows {
		if !sent[fill.Replace(row[1])] {
			t.Errorf("no method of the client sends %s", row[1])
		}
	}
}
