package test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// trial is one thing that TestCrashPoints does: it kills the process that reaches a point for the Hit-th time in an operation, and perhaps a
// second one while things come right again.
type trial struct {
	Point     string `json:"point"`
	Operation string `json:"operation"`
	Hit       int    `json:"hit"`
	Seed      uint64 `json:"seed,omitempty"` // that chose Hit and Again; zero: nobody did
	Again     again  `json:"again,omitzero"`
}

// again is the second kill of a trial: of whoever reaches Point next, or of a process of that Role some time After the first. Zero: none.
type again struct {
	Point string        `json:"point,omitempty"`
	Role  string        `json:"role,omitempty"` // daemon or pilot
	After time.Duration `json:"after,omitempty"`
}

func (a again) String() string {
	switch {
	case a.Point != "":
		return ", then at " + a.Point
	case a.Role != "":
		return fmt.Sprintf(", then the %s after %s", a.Role, a.After)
	}
	return ""
}

func (t trial) String() string {
	s := fmt.Sprintf("%s of %q, hit %d%s", t.Point, t.Operation, t.Hit, t.Again)
	if t.Seed > 0 {
		s += fmt.Sprintf(" (seed %d)", t.Seed)
	}
	return s
}

// key names a trial among those of a record: where a seed chose, it chooses the same again.
func (t trial) key() string {
	if t.Seed > 0 {
		return fmt.Sprintf("%s of %s, seed %d", t.Point, t.Operation, t.Seed)
	}
	return fmt.Sprintf("%s of %s, hit %d", t.Point, t.Operation, t.Hit)
}

// repeat is how a person does the trial again.
func (t trial) repeat() string {
	expression := "^" + regexp.QuoteMeta(t.Point+" "+t.Operation) + "$"
	if t.Seed > 0 {
		return fmt.Sprintf("GONDOLA_CRASH='%s' GONDOLA_CRASH_HITS=0 GONDOLA_CRASH_SEEDS=%d", expression, t.Seed)
	}
	return fmt.Sprintf("GONDOLA_CRASH='%s' GONDOLA_CRASH_HITS=%d", expression, t.Hit)
}

// mostHits is how late a seed may choose to kill.
const mostHits = 4

// seeded is the trial of a point and operation that a seed chooses, whatever else is tried.
func seeded(seed uint64, point, operation string) trial {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %s", point, operation)
	random := rand.New(rand.NewPCG(seed, h.Sum64()))
	t := trial{Point: point, Operation: operation, Seed: seed, Hit: 1 + random.IntN(mostHits)}
	switch random.IntN(3) {
	case 0:
		at := recovering()
		t.Again.Point = at[random.IntN(len(at))]
	case 1:
		t.Again.Role = []string{"daemon", "pilot"}[random.IntN(2)]
		t.Again.After = time.Duration(random.IntN(1500)) * time.Millisecond
	}
	return t
}

// recovering are the points that may be reached while things come right again.
func recovering() (names []string) {
	for _, p := range points {
		for _, part := range []string{"worker.adopt", "worker.record", "worker.launch", "worker.start", "worker.clean", "worker.payload", "worker.collect",
			"host.", "network.", "driver.", "volume.mount", "pilot."} {
			if strings.HasPrefix(p.name, part) {
				names = append(names, p.name)
				break
			}
		}
	}
	return names
}

// plan lists what is to be tried: each hit of each point that matches in each of its operations, or the first of these alone, and before the
// later hits once for each seed, in another order.
func plan(only *regexp.Regexp, first bool, hits int, seeds []uint64) (trials []trial) {
	var pairs []trial
	for _, p := range points {
		for i, o := range p.operations {
			if only.MatchString(p.name+" "+o) && (i == 0 || !first) {
				pairs = append(pairs, trial{Point: p.name, Operation: o})
			}
		}
	}
	hit := func(n int) {
		for _, t := range pairs {
			t.Hit = n
			trials = append(trials, t)
		}
	}
	if hits > 0 {
		hit(1)
	}
	for _, seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 0))
		for _, i := range random.Perm(len(pairs)) {
			trials = append(trials, seeded(seed, pairs[i].Point, pairs[i].Operation))
		}
	}
	for n := 2; n <= hits; n++ {
		hit(n)
	}
	return trials
}

// seedsOf reads "1,2,3".
func seedsOf(s string) (seeds []uint64, err error) {
	for f := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("seed %q: want a number from 1", f)
		}
		seeds = append(seeds, n)
	}
	return seeds, nil
}
