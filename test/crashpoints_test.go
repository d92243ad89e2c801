package test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

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

// TestCrashPoints kills the daemon or the pilot at each point (docs/rfd/0007-failpoints.md). By itself it does so once at each, in the first
// operation that reaches it. What more it does is said by the environment:
//
//	GONDOLA_CRASH=all          in every operation that reaches it, at the first two hits, and with seeds 1 to 3 (make crash)
//	GONDOLA_CRASH=EXPRESSION   only points and operations that match
//	GONDOLA_CRASH_HITS=n       at the first n hits of each
//	GONDOLA_CRASH_SEEDS=1,2    once more for each seed, which chooses a hit, and in two of three rounds a second kill
//	GONDOLA_CRASH_RECORD=file  outcomes are added to the file; what it has already is not done again
//	GONDOLA_CRASH_PART=1/2     only every second round, the first and so on
//	GONDOLA_CRASH_FOR=4m       nothing is begun after that time
//	GONDOLA_CRASH_TABLE=file   the table of that page is written
func TestCrashPoints(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and sandboxes")
	}
	trials, err := wanted()
	if err != nil {
		t.Fatal(err)
	}
	rec := record(os.Getenv("GONDOLA_CRASH_RECORD"))
	all, err := rec.read()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, o := range all {
		known[o.key()] = true
	}
	end := time.Now().Add(time.Hour)
	if s := os.Getenv("GONDOLA_CRASH_FOR"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("GONDOLA_CRASH_FOR: %v", err)
		}
		end = time.Now().Add(d)
	}
	var c *crashed
	left := 0
	for _, trial := range trials {
		if known[trial.key()] {
			continue
		}
		if time.Now().After(end) {
			left++
			continue
		}
		if c == nil {
			c = newCrashed(t)
		}
		o := c.tryAndAgain(trial)
		all = append(all, o)
		if err := rec.add(o); err != nil {
			t.Fatal(err)
		}
	}
	about, text := summary(all), tableOf(all)
	if left > 0 {
		about += fmt.Sprintf("; %d rounds are left", left)
	}
	t.Log("\n" + about + "\n" + text)
	if file := os.Getenv("GONDOLA_CRASH_TABLE"); file != "" {
		if err := writeTable(file, about, text); err != nil {
			t.Fatal(err)
		}
	}
}

// wanted reads from the environment what is to be tried.
func wanted() ([]trial, error) {
	which, hits, seeds := os.Getenv("GONDOLA_CRASH"), 1, os.Getenv("GONDOLA_CRASH_SEEDS")
	first := which == ""
	if which == "all" {
		which, hits, seeds = "", 2, cmp.Or(seeds, "1,2,3")
	}
	only, err := regexp.Compile(which)
	if err != nil {
		return nil, fmt.Errorf("GONDOLA_CRASH: %w", err)
	}
	if s := os.Getenv("GONDOLA_CRASH_HITS"); s != "" {
		if hits, err = strconv.Atoi(s); err != nil {
			return nil, fmt.Errorf("GONDOLA_CRASH_HITS: %w", err)
		}
	}
	list, err := seedsOf(seeds)
	if err != nil {
		return nil, fmt.Errorf("GONDOLA_CRASH_SEEDS: %w", err)
	}
	part, of := 1, 1
	if s := os.Getenv("GONDOLA_CRASH_PART"); s != "" {
		if _, err := fmt.Sscanf(s, "%d/%d", &part, &of); err != nil || part < 1 || of < part {
			return nil, fmt.Errorf("GONDOLA_CRASH_PART %q: want 1/2 or the like", s)
		}
	}
	var trials []trial
	for i, t := range plan(only, first, hits, list) {
		if i%of == part-1 {
			trials = append(trials, t)
		}
	}
	return trials, nil
}

// tryAndAgain does a trial, once more where the point was not reached, then at its first hit. One that goes wrong is done once more, which tells
// whether it always does.
func (c *crashed) tryAndAgain(t trial) outcome {
	o := c.try(t)
	// Another hit than the first is not always there, and a worker may end a pilot right before its last point.
	if !o.Reached && (t.Seed > 0 || t.Hit == 1) {
		t.Hit = 1
		if o = c.try(t); !o.Reached {
			c.t.Errorf("%q does not reach point %s", t.Operation, t.Point)
		}
	}
	if o.bad() {
		c.t.Logf("to do this round again: %s", t.repeat())
		again := "in order"
		if once := c.try(t); once.bad() {
			again = once.What
		}
		o.What += "; the same round once more: " + again
		c.t.Log(o.What)
	}
	return o
}
