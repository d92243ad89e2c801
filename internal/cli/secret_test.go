package cli_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/cli"
	"gondola/internal/gondolatest"
)

func TestSecrets_AreSetListedAndSeenByMachines(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{})
	p.NewApp("shop")
	ok := func(stdin string, args ...string) string {
		t.Helper()
		c.in = stdin
		r := c.run(args...)
		if r.code != 0 {
			t.Fatalf("gondola %s = %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
		}
		return r.out
	}
	token := func() string {
		t.Helper()
		return strings.TrimSpace(ok("", "exec", "web", "/program", "env", "TOKEN"))
	}
	if out := ok("", "secrets", "set", "-a", "shop", "TOKEN=a=b"); !strings.Contains(out, "version 1; 0 Machines") {
		t.Errorf("secrets set prints %q", out)
	}
	ok("", "machine", "run", "-a", "shop", "-n", "web", "test/app", "trap")
	if got := token(); got != "TOKEN=a=b" {
		t.Errorf("the machine has %q", got)
	}
	ok("from stdin", "secrets", "set", "-a", "shop", "--stage", "TOKEN=-")
	if got := token(); got != "TOKEN=a=b" {
		t.Errorf("what is staged is seen: %q", got)
	}
	if out := ok("", "secrets", "deploy", "-a", "shop"); !strings.Contains(out, "1 Machines") {
		t.Errorf("secrets deploy prints %q", out)
	}
	ms, err := p.List(t.Context(), "shop", gondola.ListFilter{})
	if err != nil || len(ms) != 1 {
		t.Fatal(ms, err)
	}
	if _, err := p.Wait(t.Context(), ms[0].Ref(), gondola.WaitRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := token(); got != "TOKEN=from stdin" {
		t.Errorf("after deploy the machine has %q", got)
	}
	ok("# comment\n\nexport ONE=1\nTWO='two words'\nKEY=\"\"\"\nline 1\nline 2\n\"\"\"\n", "secrets", "import", "-a", "shop", "--stage")
	for name, want := range map[string]string{"ONE": "1", "TWO": "two words", "KEY": "line 1\nline 2\n"} {
		if s, err := p.Secret(t.Context(), "shop", name, gondola.SecretsQuery{Show: true}); err != nil || s.Value != want {
			t.Errorf("%s = %q, %v, want %q", name, s.Value, err, want)
		}
	}
	ok("", "secrets", "unset", "-a", "shop", "--stage", "ONE", "TWO")
	out := ok("", "secrets", "list", "-a", "shop")
	if !strings.Contains(out, "TOKEN") || !strings.Contains(out, "KEY") || strings.Contains(out, "ONE") || strings.Contains(out, "stdin") {
		t.Errorf("secrets list prints\n%s", out)
	}
	ok("", "secrets", "renew-key")
	for _, args := range [][]string{{"secrets", "set", "-a", "shop"}, {"secrets", "set", "-a", "shop", "hunter2"}, {"secrets", "set", "-a", "shop", "A=-", "B=-"}, {"secrets", "import", "-a", "shop"}} {
		c.in = ""
		if r := c.run(args...); r.code != 2 || strings.Contains(r.err, "hunter2") {
			t.Errorf("gondola %s = %d, want 2: %s", strings.Join(args, " "), r.code, r.err)
		}
	}
	if r := c.run("secrets", "set", "-a", "shop", "FLY_X=1"); r.code != 1 || !strings.Contains(r.err, "FLY_") {
		t.Errorf("a reserved name = %d %s", r.code, r.err)
	}
}

// keyboard is a terminal where a person types a text and then Ctrl-C.
type keyboard struct {
	io.Reader
	ctrlC context.CancelFunc
	left  <-chan struct{}
}

func (k keyboard) Read(p []byte) (int, error) {
	if n, _ := k.Reader.Read(p); n > 0 {
		return n, nil
	}
	k.ctrlC()
	<-k.left
	return 0, io.EOF
}

func TestSecrets_CtrlCEndsTheReadingOfStdin(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{})
	p.NewApp("shop")
	for _, test := range []struct {
		typed string
		args  []string
	}{
		{"half a val", []string{"secrets", "set", "-a", "shop", "A=-"}},
		{"A=1\n", []string{"secrets", "import", "-a", "shop"}},
		{"A=\"\"\"one\n", []string{"secrets", "import", "-a", "shop"}},
	} {
		ctx, ctrlC := context.WithCancel(t.Context())
		left, out := make(chan struct{}), make(chan int, 1)
		go func() {
			in := keyboard{strings.NewReader(test.typed), ctrlC, left}
			out <- cli.Main(ctx, cli.Parts{DataDir: c.data, In: in, Out: io.Discard, Err: io.Discard}, test.args)
		}()
		select {
		case code := <-out:
			if code != 130 {
				t.Errorf("Ctrl-C at gondola %s = %d, want 130", strings.Join(test.args, " "), code)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("gondola %s goes on after Ctrl-C", strings.Join(test.args, " "))
		}
		close(left)
	}
	if all, err := p.ListSecrets(t.Context(), "shop", gondola.SecretsQuery{}); err != nil || len(all) > 0 {
		t.Errorf("there are secrets that were never typed to their end: %v, %v", all, err)
	}
}
