package test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// recovery is how long all may take to be as it has to be, once a daemon is up again or a pilot has died.
const recovery = 5 * time.Second

// TestCrashPoints_AllAreKilledAt finds failpoints that the table of this test lacks, and the other way round.
func TestCrashPoints_AllAreKilledAt(t *testing.T) {
	hit := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	there := map[string]int{}
	for _, dir := range []string{"../internal", "../cmd"} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/failpoint/") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range hit.FindAllStringSubmatch(string(b), -1) {
				there[m[1]]++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range points {
		if there[p.name] != 1 {
			t.Errorf("point %s is in the table and %d times in the program, want once", p.name, there[p.name])
		}
		delete(there, p.name)
		for _, o := range p.operations {
			if operations[o].act == nil {
				t.Errorf("point %s is reached by %q, which is no operation", p.name, o)
			}
		}
	}
	for name := range there {
		t.Errorf("point %s is not in the table: say which operations reach it", name)
	}
}

// outcome is what came of the kills at one point in one operation.
type outcome struct {
	point, operation             string
	kills, lost, doubled, leaked int
	took                         []time.Duration
}

// TestCrashPoints kills the daemon or the pilot at each point. GONDOLA_CRASH=all does so in every operation that reaches it and at the first
// hits of each (`make crash`), else the first operation and hit is enough; GONDOLA_CRASH=expression only at the points that match.
// GONDOLA_CRASH_TABLE=file writes the table.
func TestCrashPoints(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and sandboxes")
	}
	which, hits := os.Getenv("GONDOLA_CRASH"), 1
	all := which == "all"
	if all {
		which, hits = "", 2
	}
	only, err := regexp.Compile(which)
	if err != nil {
		t.Fatalf("GONDOLA_CRASH: %v", err)
	}
	c := newCrashed(t)
	var table []*outcome
	for _, p := range points {
		for i, name := range p.operations {
			if !only.MatchString(p.name+" "+name) || i > 0 && which == "" && !all {
				continue
			}
			o := &outcome{point: p.name, operation: name}
			for n := 1; n <= hits && c.round(o, operations[name], n); n++ {
			}
			table = append(table, o)
		}
	}
	text := tableOf(table)
	t.Log("\n" + text)
	if file := os.Getenv("GONDOLA_CRASH_TABLE"); file != "" && !t.Failed() {
		if err := writeTable(file, text); err != nil {
			t.Fatal(err)
		}
	}
}

// round kills once, at the n-th hit of the point, and says whether there were as many.
func (c *crashed) round(o *outcome, op operation, n int) bool {
	began := time.Now()
	defer func() {
		c.t.Logf("%s of %q, hit %d: round %s", o.point, o.operation, n, time.Since(began).Round(time.Millisecond))
	}()
	c.kept, c.ids = false, newIDs()
	if op.setup != nil {
		if err := op.setup(c); err != nil {
			c.t.Fatalf("prepare %q: %v", o.operation, err)
		}
	}
	c.arm(fmt.Sprintf("%s=%d", o.point, n))
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	asked := make(chan error, 1)
	go func() { asked <- op.act(c, ctx) }()
	if !c.wasHit(asked, n) {
		c.disarm()
		if n == 1 {
			c.t.Fatalf("%q does not reach point %s", o.operation, o.point)
		}
		if <-asked; c.gone(0) { // as "down" leaves it
			c.hangUp()
			if err := errors.Join(c.launchUp(), c.ready()); err != nil {
				c.t.Fatal(err)
			}
		}
		c.clear(o)
		return false
	}
	o.kills++
	died := time.Now()
	daemon := !strings.HasPrefix(o.point, "pilot.")
	if daemon {
		if !c.gone(10 * time.Second) {
			c.t.Fatalf("the daemon is still there after it reached %s", o.point)
		}
		c.hangUp()
	}
	err := <-asked
	if daemon {
		if err := c.launchUp(); err != nil {
			c.t.Fatal(err)
		}
		if err := c.ready(); err != nil {
			c.t.Fatal(err)
		}
	}
	up := time.Now()
	for err != nil && !op.once { // it was not acknowledged
		if err = op.act(c, ctx); err != nil && time.Since(up) > recovery {
			c.t.Errorf("%q after %s, asked for again: %v", o.operation, o.point, err)
			break
		}
	}
	if err := c.awaitFor(op.wrong, time.Until(up.Add(recovery))); err != nil {
		o.lost++
		out, _ := c.bounded("machine", "list", "--json")
		c.t.Logf("machines: %s", out)
		c.t.Errorf("%s after %s: %v", o.operation, o.point, err)
	}
	o.took = append(o.took, time.Since(died))
	c.clear(o)
	return true
}

// clear destroys everything and looks at what is left of it.
func (c *crashed) clear(o *outcome) {
	if c.doubled != "" {
		o.doubled++
		c.t.Errorf("doubled: %s", c.doubled)
		c.doubled = ""
	}
	if err := c.destroyAll(); err != nil {
		c.t.Errorf("destroy everything after %s: %v", o.point, err)
	}
	if err := c.awaitFor((*crashed).clean, recovery); err != nil {
		o.leaked++
		c.t.Errorf("leaked after %s of %q: %v", o.point, o.operation, err)
	}
}

// tableOf prints outcomes as Markdown.
func tableOf(table []*outcome) string {
	var b strings.Builder
	b.WriteString("| Killed at | during | kills | lost | doubled | leaked | recovery p50 | max |\n|---|---|--:|--:|--:|--:|--:|--:|\n")
	sum := &outcome{point: "**all**"}
	row := func(o *outcome) {
		slices.Sort(o.took)
		p50, most := "", ""
		if n := len(o.took); n > 0 {
			p50, most = seconds(o.took[n/2]), seconds(o.took[n-1])
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %s | %s |\n", o.point, o.operation, o.kills, o.lost, o.doubled, o.leaked, p50, most)
	}
	for _, o := range table {
		sum.kills, sum.lost, sum.doubled, sum.leaked = sum.kills+o.kills, sum.lost+o.lost, sum.doubled+o.doubled, sum.leaked+o.leaked
		sum.took = append(sum.took, o.took...)
		row(o)
	}
	row(sum)
	return b.String()
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s" }

// writeTable puts the table behind the first line of a page that begins with a "|", or at its end.
func writeTable(file, text string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, _, _ := strings.Cut(string(b), "| Killed at |")
	date := cmp.Or(os.Getenv("GONDOLA_CRASH_DATE"), time.Now().UTC().Format(time.DateOnly))
	before = regexp.MustCompile(`(?m)^Measured on .*$`).ReplaceAllString(before, "Measured on "+date+" with `make crash`:")
	return os.WriteFile(file, []byte(before+text), 0o644)
}
