package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"gondola"
)

const (
	scrapeTimeout = 5 * time.Second // for all Machines together
	maxScrape     = 1 << 20         // bytes that one Machine may answer
	maxScrapes    = 32 << 20        // bytes that all of them may, each an equal part
	maxScrapers   = 2               // who may ask at once
	scrapeUp      = "gondola_machine_scrape_up"
)

// scraper gathers what the programs in Machines tell of themselves: it asks each started Machine whose Config has `metrics` when it is asked
// itself, and keeps nothing. It reaches them as everybody does, by gondola.Streams, so that whatever a Machine's Config says nothing but that
// Machine can be reached. It is a prometheus.Gatherer.
type scraper struct {
	machines gondola.Machines
	streams  gondola.Streams
	timeout  time.Duration // If zero, scrapeTimeout.
}

// handler shows what Gather returns. A family that cannot be written costs no other.
func (s *scraper) handler() http.Handler {
	return promhttp.HandlerFor(s, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapers})
}

// Gather asks all Machines at once, so that one that hangs takes nobody's turn. Samples get the labels app, region, host and instance. One that
// does not answer in time with 200 and no more than its part of text in Prometheus' format has the gauge gondola_machine_scrape_up 0, and no
// other sample.
func (s *scraper) Gather() ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(s.timeout, scrapeTimeout))
	defer cancel()
	all, err := s.machines.List(ctx, "", gondola.ListFilter{States: []gondola.State{gondola.Started}})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(m gondola.Machine) bool { return m.Gondola == nil || m.Config == nil || m.Config.Metrics == nil })
	part := min(maxScrape, maxScrapes/max(len(all), 1))
	answers := make([]map[string]*dto.MetricFamily, len(all))
	var asked sync.WaitGroup
	for i := range all {
		asked.Go(func() {
			if got, err := s.scrape(ctx, &all[i], part); err == nil {
				answers[i] = got
			}
		})
	}
	asked.Wait()
	sum := families{}
	for i := range all {
		up := 0.0
		if answers[i] != nil {
			up = 1
		}
		own := labelsOf(&all[i])
		for _, f := range answers[i] {
			sum.add(f, own)
		}
		sum.add(upFamily(up), own)
	}
	return sum.sorted(), nil
}

// scrape asks one Machine, and reads at most so many bytes of its answer.
func (s *scraper) scrape(ctx context.Context, m *gondola.Machine, most int) (map[string]*dto.MetricFamily, error) {
	at := m.Config.Metrics
	scheme := "http"
	if at.HTTPS {
		scheme = "https"
	}
	host := net.JoinHostPort(cmp.Or(m.PrivateIP, "localhost"), strconv.Itoa(at.Port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+at.Path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	resp, err := s.client(m).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(body) > most {
		return nil, fmt.Errorf("more than %d bytes", most)
	}
	return parseMetrics(body)
}

// client speaks to one Machine, wherever a URL leads, and follows no redirects. A Machine is named by its address, for which nobody signs
// certificates, so that they are not looked at.
func (s *scraper) client(m *gondola.Machine) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := s.streams.Dial(ctx, m.Ref(), m.Config.Metrics.Port)
		if err != nil {
			return nil, err
		}
		return machineConn{c}, nil
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
}

// machineConn makes a net.Conn of a connection to a Machine, which has neither addresses nor deadlines: it is closed when time is over.
type machineConn struct{ io.ReadWriteCloser }

func (machineConn) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "machine"} }
func (machineConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "machine"} }
func (machineConn) SetDeadline(time.Time) error      { return nil }
func (machineConn) SetReadDeadline(time.Time) error  { return nil }
func (machineConn) SetWriteDeadline(time.Time) error { return nil }

// parseMetrics reads the text format. Whatever it takes can be shown beside the answers of others: what Prometheus refuses, for which it would
// refuse all of them, is an error, and so is what the parser cannot bear.
func parseMetrics(body []byte) (found map[string]*dto.MetricFamily, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("parse: %v", p)
		}
	}()
	if !utf8.Valid(body) || bytes.IndexByte(body, 0) >= 0 {
		return nil, errors.New("not a text")
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if found, err = parser.TextToMetricFamilies(bytes.NewReader(body)); err != nil {
		return nil, err
	}
	delete(found, scrapeUp) // ours to tell
	return found, nil
}

// labelsOf are those that tell a Machine's samples from others', as Fly.io names them.
func labelsOf(m *gondola.Machine) []*dto.LabelPair {
	var out []*dto.LabelPair
	for _, l := range [][2]string{{"app", string(m.Gondola.App)}, {"host", string(m.Gondola.Worker)}, {"instance", string(m.ID)}, {"region", string(m.Region)}} {
		out = append(out, &dto.LabelPair{Name: &l[0], Value: &l[1]})
	}
	return out
}

func upFamily(up float64) *dto.MetricFamily {
	name, help := scrapeUp, "1 where a Machine with metrics in its Config answered with such, else 0."
	return &dto.MetricFamily{Name: &name, Help: &help, Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: &up}}}}
}

// families are what several Machines told, by name and type: two that mean different things by one name do not cost each other anything.
type families map[familyKey]*dto.MetricFamily

type familyKey struct {
	name string
	kind dto.MetricType
}

// add adds a Machine's samples. A label of theirs whose name is one of ours becomes exported_<name>, as Prometheus itself has it.
func (all families) add(f *dto.MetricFamily, own []*dto.LabelPair) {
	for _, m := range f.Metric {
		for _, l := range m.Label {
			if !hasLabel(own, l.GetName()) {
				continue
			}
			name := "exported_" + l.GetName()
			for hasLabel(m.Label, name) {
				name = "exported_" + name
			}
			l.Name = &name
		}
		m.Label = append(m.Label, own...)
	}
	k := familyKey{f.GetName(), f.GetType()}
	if have, ok := all[k]; ok {
		have.Metric = append(have.Metric, f.Metric...)
		return
	}
	all[k] = f
}

func hasLabel(labels []*dto.LabelPair, name string) bool {
	return slices.ContainsFunc(labels, func(l *dto.LabelPair) bool { return l.GetName() == name })
}

func (all families) sorted() []*dto.MetricFamily {
	out := make([]*dto.MetricFamily, 0, len(all))
	for _, f := range all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int {
		return cmp.Or(strings.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetType(), b.GetType()))
	})
	return out
}
