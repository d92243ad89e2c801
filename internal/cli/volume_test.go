package cli_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/gondolatest"
)

func TestVolume_FromCreateToDestroy(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	ok := func(args ...string) string {
		t.Helper()
		r := c.run(args...)
		if r.code != 0 {
			t.Fatalf("gondola %s = %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
		}
		return r.out
	}
	var v gondola.Volume
	if err := json.Unmarshal([]byte(ok("volume", "create", "data", "--size", "2", "--json")), &v); err != nil || v.SizeGB != 2 || v.Name != "data" {
		t.Fatalf("volume create --json = %+v, %v", v, err)
	}
	ok("machine", "run", "-n", "db", "--volume", "data:/data", "test/app", "trap")
	ok("exec", "db", "/program", "write", "/data/a", "kept")
	if out := ok("volumes", "list"); !strings.Contains(out, string(v.ID)) || !strings.Contains(out, "2 GB") {
		t.Errorf("volumes list prints\n%s", out)
	}
	if r := c.run("volume", "destroy", "data"); r.code != 1 || !strings.Contains(r.err, "attached to machine") {
		t.Errorf("destroying a volume in use = %d %s", r.code, r.err)
	}
	if r := c.run("machine", "run", "--volume", string(v.ID)+":/x", "test/app"); r.code != 1 || !strings.Contains(r.err, "already attached") {
		t.Errorf("a second machine with the volume = %d %s", r.code, r.err)
	}
	if out := ok("volume", "extend", "data", "--size", "5"); !strings.Contains(out, "5 GB") {
		t.Errorf("volume extend prints %q", out)
	}
	snap := strings.Fields(ok("volume", "snapshot", "create", "data"))[0]
	if out := ok("volume", "snapshots", "list", "data"); !strings.Contains(out, snap) || !strings.Contains(out, "created") {
		t.Errorf("snapshot list prints\n%s", out)
	}
	ok("volume", "create", "copy", "--snapshot", snap)
	ok("machine", "run", "-n", "again", "--volume", "copy:/data:ro", "test/app", "trap")
	if out := ok("exec", "again", "/program", "read", "/data/a"); out != "kept" {
		t.Errorf("the copy holds %q", out)
	}
	ok("machine", "destroy", "--force", "db")
	ok("volume", "destroy", "data")
	if out := ok("volume", "recover", string(v.ID)); !strings.Contains(out, "is back") {
		t.Errorf("volume recover prints %q", out)
	}
	ok("volume", "show", "data")
	ok("volume", "destroy", "--now", "data")
	ok("volume", "snapshot", "delete", snap)
	if r := c.run("volume", "show", "data"); r.code != 1 || !strings.Contains(r.err, "no volume") {
		t.Errorf("showing a destroyed volume = %d %s", r.code, r.err)
	}
	for _, args := range [][]string{{"volume", "extend", "copy"}, {"machine", "run", "--volume", "data", "test/app"}, {"volume", "create"}} {
		if r := c.run(args...); r.code != 2 {
			t.Errorf("gondola %s = %d, want 2: %s", strings.Join(args, " "), r.code, r.err)
		}
	}
}

func TestClone_NamesAVolumeThatItCannotTakeBack(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{})
	c.ok("volume", "create", "data", "--size", "1")
	c.ok("machine", "run", "-n", "db", "--volume", "data:/data", "test/app", "trap")
	to, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(to)
	ill := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete || r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/machines") {
			http.Error(w, `{"error": "out of order"}`, http.StatusInternalServerError)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	defer ill.Close()
	r := c.run("machine", "clone", "db", "--api", ill.URL, "--token", p.Auth.Root())
	for _, v := range jsonOf[[]gondola.Volume](t, c.ok("volume", "list", "--json")) {
		if v.AttachedMachine == nil && r.code == 1 && strings.Contains(r.err, "gondola volume destroy --now "+string(v.ID)) {
			return
		}
	}
	t.Errorf("the volume of a clone that came to nothing is not named: %+v", r)
}
