package daemon

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/api"
	"gondola/internal/gondolatest"
)

// machines is a platform whose Machines tell metrics.
type machines struct {
	*gondolatest.Platform
	t *testing.T
}

func newMachines(t *testing.T) *machines {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	return &machines{p, t}
}

// run starts a Machine that runs a command of package program, and whose metrics are at port 9091.
func (p *machines) run(command ...string) gondola.Machine {
	p.t.Helper()
	m, err := p.Market.Create(p.t.Context(), "shop", gondola.CreateRequest{Config: gondola.Config{Image: "test/app",
		Init: gondola.Init{Exec: append([]string{"/program"}, command...)}, Metrics: &gondola.Metrics{Port: 9091, Path: "/metrics"}}})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.Wait(p.t.Context(), m.Ref(), gondola.WaitRequest{}); err != nil {
		p.t.Fatal(err)
	}
	return m
}

// tells starts a Machine whose metrics are text.
func (p *machines) tells(text string) gondola.Machine {
	p.t.Helper()
	m := p.run("respond", "9091", "200 OK", text)
	p.listens(m)
	return m
}

// listens waits until a Machine does.
func (p *machines) listens(m gondola.Machine) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := p.Market.Dial(p.t.Context(), m.Ref(), 9091)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("machine %s does not listen: %v", m.ID, err)
		}
	}
}

// scrape asks for all metrics, with so much time.
func (p *machines) scrape(timeout time.Duration) string {
	p.t.Helper()
	w := httptest.NewRecorder()
	(&scraper{machines: p.Market, streams: p.Market, timeout: timeout}).handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics/machines", nil))
	if w.Code != http.StatusOK {
		p.t.Fatalf("GET /metrics/machines = %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// labels are those of a Machine's samples.
func labels(m gondola.Machine) string {
	return `app="shop",host="local",instance="` + string(m.ID) + `",region="local"`
}

// has fails the test where a line is not there once.
func (p *machines) has(text string, lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		if strings.Count("\n"+text, "\n"+line+"\n") != 1 {
			p.t.Errorf("the line %q is not there once:\n%s", line, text)
		}
	}
}

func TestScrape_ShowsWhatMachinesTellWithTheirLabels(t *testing.T) {
	p := newMachines(t)
	one := p.tells("# HELP orders_total Orders.\n# TYPE orders_total counter\norders_total{kind=\"tea\"} 3\n# TYPE wait histogram\nwait_bucket{le=\"1\"} 2\nwait_bucket{le=\"+Inf\"} 2\nwait_sum 1.5\nwait_count 2\n")
	two := p.tells("# TYPE orders_total counter\norders_total{app=\"mine\",exported_app=\"too\"} 4\n# TYPE wait gauge\nwait 7\ngondola_machine_scrape_up 0\n")
	silent, err := p.Market.Create(t.Context(), "shop", gondola.CreateRequest{SkipLaunch: true, Config: gondola.Config{Image: "test/app", Metrics: &gondola.Metrics{Port: 9091, Path: "/"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := p.scrape(0)
	p.has(got, `# HELP orders_total Orders.`, `# TYPE orders_total counter`,
		`orders_total{kind="tea",`+labels(one)+`} 3`, `wait_bucket{`+labels(one)+`,le="1"} 2`,
		`orders_total{exported_exported_app="mine",exported_app="too",`+labels(two)+`} 4`, `wait{`+labels(two)+`} 7`,
		`gondola_machine_scrape_up{`+labels(one)+`} 1`, `gondola_machine_scrape_up{`+labels(two)+`} 1`)
	if n := strings.Count(got, "gondola_machine_scrape_up{"); n != 2 {
		t.Errorf("%d machines answered or not, want two: what one says of that itself does not count\n%s", n, got)
	}
	if strings.Contains(got, string(silent.ID)) {
		t.Errorf("a machine that does not run is asked:\n%s", got)
	}
}

func TestScrape_AMachineCostsOnlyItsOwnSamples(t *testing.T) {
	p := newMachines(t)
	good := p.tells("orders 3\n")
	elsewhere := gondolatest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("stolen 1\n")) }))
	bad := map[string]gondola.Machine{
		"nobody listens": p.run("run"),
		"hangs":          p.run("respond", "9091"),
		"an error":       p.run("respond", "9091", "500 Internal Server Error", "broken 1\n"),
		"a redirect":     p.run("respond", "9091", "302 Found\r\nLocation: "+elsewhere, ""),
		"no metrics":     p.tells("<html>"),
		"no UTF-8":       p.tells("# HELP broken \xff\nbroken 1\n"),
		"a label twice":  p.tells("broken{a=\"1\",a=\"2\"} 1\n"),
		"too much":       p.tells("broken 1\n# " + strings.Repeat("x", maxScrape) + "\n"),
	}
	got := p.scrape(time.Second)
	p.has(got, `orders{`+labels(good)+`} 3`, `gondola_machine_scrape_up{`+labels(good)+`} 1`)
	for what, m := range bad {
		if n := strings.Count(got, string(m.ID)); n != 1 {
			t.Errorf("%s: %d lines are of that machine, want one:\n%s", what, n, got)
		}
		p.has(got, `gondola_machine_scrape_up{`+labels(m)+`} 0`)
	}
	if strings.Contains(got, "stolen") {
		t.Error("a redirect leads out of the machine")
	}
}

func TestScrape_IsForWhoMaySeeThePlatform(t *testing.T) {
	p := newMachines(t)
	m := p.tells("orders 3\n")
	url := gondolatest.Serve(t, api.New(api.Config{Server: p.Market, Auth: p.Auth, MachineMetrics: (&scraper{machines: p.Market, streams: p.Market}).handler()}))
	for token, want := range map[string]int{"": 401, p.mint(gondola.Caveats{ReadOnly: true}): 200, p.mint(gondola.Caveats{Org: "personal"}): 403,
		p.mint(gondola.Caveats{Machines: []gondola.MachineID{m.ID}}): 403} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/metrics/machines", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET /metrics/machines = %d, want %d", resp.StatusCode, want)
		}
	}
}

func (p *machines) mint(c gondola.Caveats) string {
	tok, err := p.Auth.Mint(c)
	if err != nil {
		p.t.Fatal(err)
	}
	return tok
}
