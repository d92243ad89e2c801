package pilot_test

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gondola"
	"gondola/internal/driver/drivertest/program"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

// seconds is a duration of the wire.
func seconds(n int) *gondola.Duration { return new(gondola.Duration(time.Duration(n) * time.Second)) }

// checked returns the checks that a Config of these would have.
func checked(checks map[string]gondola.Check) []gondola.NamedCheck {
	c := gondola.Config{Checks: checks}
	return c.AllChecks()
}

func TestChecks_AskWhatTheyAreTold(t *testing.T) {
	pair := httptest.NewTLSServer(nil) // for its certificate
	pair.Close()
	server := func(e program.Env) int {
		l, err := e.Listen(443)
		if err != nil {
			return 1
		}
		s := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/moved":
				http.Redirect(w, r, "/", http.StatusFound)
			case r.Method != "POST" || r.Host != "shop.example" || strings.Join(r.Header["X-Key"], "+") != "a+b" || r.URL.RequestURI() != "/health?deep=1":
				http.Error(w, r.Method+" "+r.Host+r.URL.RequestURI(), http.StatusTeapot)
			}
		})}
		go func() {
			<-e.Done
			s.Close()
		}()
		s.Serve(tls.NewListener(l, &tls.Config{Certificates: pair.TLS.Certificates}))
		return 0
	}
	good := gondola.Check{Type: "http", Port: 443, Protocol: "https", TLSSkipVerify: true, Method: "POST", Path: "/health?deep=1",
		Headers: []gondola.HTTPHeader{{Name: "Host", Values: []string{"shop.example"}}, {Name: "X-Key", Values: []string{"a", "b"}}}}
	plain, moved, wary := good, good, good
	plain.Headers, moved.Path, wary.TLSSkipVerify, wary.TLSServerName = nil, "/moved", false, "example.com"
	spec := pilot.Spec{Containers: []pilot.Container{{Name: "app", Args: []string{"check"}}},
		Checks: checked(map[string]gondola.Check{"good": good, "moved": moved, "plain": plain, "wary": wary, "port": {Type: "tcp", Port: 443}, "shut": {Type: "tcp", Port: 80}})}
	simulateWith(t, server, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(16 * time.Second)
		for i, want := range []struct{ name, status, output string }{
			{"good", "passing", "200 OK"}, {"moved", "critical", "302 Found"}, {"plain", "critical", "418"}, {"port", "passing", "connected"},
			{"shut", "critical", "refused"}, {"wary", "critical", "certificate"},
		} {
			got := now(t, api).Checks[i]
			if got.Name != want.name || got.Status != want.status || !strings.Contains(got.Output, want.output) {
				t.Errorf("check %+v, want %+v", got, want)
			}
		}
		pass(6 * time.Second) // TLS gives up its last word to who does not listen after 5
	})
}

func TestChecks_FailuresCountAfterTheGracePeriod(t *testing.T) {
	spec := pilot.Spec{Containers: []pilot.Container{{Name: "app", Args: []string{"/program", "sleep", "102", ";", "http", "80"}}},
		Checks: checked(map[string]gondola.Check{"web": {Type: "http", Port: 80, Interval: seconds(10), GracePeriod: seconds(60)}})}
	simulate(t, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		for _, at := range []struct {
			until          time.Duration
			status, output string
		}{{55, "critical", "waiting"}, {65, "critical", "refused"}, {105, "critical", "refused"}, {115, "passing", "200 OK"}} {
			began := now(t, api).StartedAt
			pass(time.Until(began.Add(at.until * time.Second)))
			if got := now(t, api).Checks[0]; got.Status != at.status || !strings.Contains(got.Output, at.output) {
				t.Errorf("after %d s: %+v, want %s", at.until, got, at.status)
			}
		}
		before := now(t, api)
		pass(time.Hour)
		if after := now(t, api); after.Seq != before.Seq {
			t.Errorf("%d changes in an hour in which nothing changed", after.Seq-before.Seq)
		}
		if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if got := now(t, api); got.Phase != pilot.Ended || got.Checks[0].Status != "passing" {
			t.Errorf("after the stop: %s, %+v, want what the check said last", got.Phase, got.Checks)
		}
	})
}

func TestRestart_RetriesAreThoseOfFiveMinutes(t *testing.T) {
	run := func(retries int, args ...string) pilot.Spec {
		c := restarting("on-failure", append([]string{"/program"}, args...)...)
		c.Config.Restart.MaxRetries = retries
		return pilot.Spec{Containers: []pilot.Container{c}}
	}
	for _, c := range []struct {
		spec     pilot.Spec
		restarts int
	}{{run(3, "exit", "1"), 3}, {run(30, "exit", "1"), 30}, {run(3, "sleep", "20", ";", "exit", "1"), 3}} {
		simulate(t, c.spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
			pass(5 * time.Minute)
			if s := now(t, api); s.Phase != pilot.Ended || s.Containers[0].RestartCount != c.restarts {
				t.Errorf("%q: %s after %d restarts, want the end after %d", c.spec.Containers[0].Args, s.Phase, s.Containers[0].RestartCount, c.restarts)
			}
		})
	}
	simulate(t, run(3, "sleep", "110", ";", "exit", "1"), func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(time.Hour)
		synctest.Wait()
		if s := now(t, api); s.Phase != pilot.Running || s.Containers[0].RestartCount < 20 {
			t.Errorf("a program that fails every two minutes: %s after %d restarts, want it to go on", s.Phase, s.Containers[0].RestartCount)
		}
	})
}
