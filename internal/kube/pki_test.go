package kube

import (
	"bytes"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestPKI_RenewsWhatEndsWithinAMonthAndNothingElse(t *testing.T) {
	cfg, err := Config{Name: "test", Dir: t.TempDir(), Address: netip.MustParseAddr("10.99.0.1"),
		Nodes: []NodeConfig{{Name: "local", Addresses: []netip.Addr{netip.MustParseAddr("10.99.0.2")}}}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ensure := func(after time.Duration, cfg Config) map[string][]byte {
		t.Helper()
		p := newPKI(&cfg)
		p.now = func() time.Time { return began.Add(after) }
		if err := p.ensure(); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, f := range []string{"ca.crt", "sa.key", "apiserver.crt", "admin.crt", "node-local.crt", "kubelet-local.crt", "front-proxy-client.crt"} {
			if files[f], err = os.ReadFile(p.file(f)); err != nil {
				t.Fatal(err)
			}
		}
		return files
	}
	written := func() time.Time {
		t.Helper()
		fi, err := os.Stat(newPKI(&cfg).file("sa.pub"))
		if err != nil {
			t.Fatal(err)
		}
		return fi.ModTime()
	}
	first, public := ensure(0, cfg), written()
	day := 24 * time.Hour
	for f, b := range ensure(330*day, cfg) {
		if !bytes.Equal(b, first[f]) {
			t.Errorf("%s was made anew with 35 days left", f)
		}
	}
	if !written().Equal(public) {
		t.Error("sa.pub was written anew")
	}
	for f, b := range ensure(340*day, cfg) {
		if kept := f == "ca.crt" || f == "sa.key"; bytes.Equal(b, first[f]) != kept {
			t.Errorf("with 25 days left, %s kept = %v, want %v", f, !kept, kept)
		}
	}
	p := newPKI(&cfg)
	serving := p.serving("kubelet-local")
	one, err := serving(nil)
	if err != nil {
		t.Fatal(err)
	}
	before := ensure(680*day, cfg)
	if two, err := serving(nil); err != nil || bytes.Equal(one.Certificate[0], two.Certificate[0]) {
		t.Errorf("a server goes on with the certificate of before its renewal (%v)", err)
	}
	cfg.Nodes[0].Addresses = []netip.Addr{netip.MustParseAddr("10.99.0.9")}
	after := ensure(680*day, cfg)
	if bytes.Equal(before["kubelet-local.crt"], after["kubelet-local.crt"]) {
		t.Error("a node's certificate does not follow its address")
	}
	if !bytes.Equal(before["apiserver.crt"], after["apiserver.crt"]) {
		t.Error("the API server's certificate changed with a node's address")
	}
}
