package test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// outcome is what came of a trial. Late is what came right, but not in time; Load is the machine's at the end, of which what was late may be.
type outcome struct {
	trial
	Reached bool          `json:"reached"` // the operation has as many hits
	Kills   int           `json:"kills"`
	Lost    int           `json:"lost,omitempty"`
	Late    int           `json:"late,omitempty"`
	Doubled int           `json:"doubled,omitempty"`
	Leaked  int           `json:"leaked,omitempty"`
	Took    time.Duration `json:"took"` // from the last death until all was right
	Load    string        `json:"load"`
	What    string        `json:"what,omitempty"` // was wrong
}

func (o *outcome) bad() bool { return o.Lost+o.Late+o.Doubled+o.Leaked > 0 }

// fail notes what was wrong.
func (o *outcome) fail(n *int, what string) {
	*n++
	o.What = strings.TrimPrefix(o.What+"; "+what, "; ")
}

// load is how much the machine has to do, of all that runs on it.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// record is a file of outcomes, a line each; the empty name is none.
type record string

// read returns the outcomes on record.
func (r record) read() (all []outcome, err error) {
	if r == "" {
		return nil, nil
	}
	f, err := os.Open(string(r))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var o outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return nil, fmt.Errorf("%s: %w", r, err)
		}
		all = append(all, o)
	}
	return all, lines.Err()
}

func (r record) add(o outcome) error {
	if r == "" {
		return nil
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(string(r), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// row is a line of the table: all outcomes at one point in one operation.
type row struct {
	point, operation                   string
	kills, lost, late, doubled, leaked int
	took                               []time.Duration
}

func (r *row) add(o outcome) {
	r.kills, r.lost, r.late = r.kills+o.Kills, r.lost+o.Lost, r.late+o.Late
	r.doubled, r.leaked = r.doubled+o.Doubled, r.leaked+o.Leaked
	if o.Reached && o.Lost == 0 {
		r.took = append(r.took, o.Took)
	}
}

func (r *row) String() string {
	slices.Sort(r.took)
	p50, most := "", ""
	if n := len(r.took); n > 0 {
		p50, most = seconds(r.took[n/2]), seconds(r.took[n-1])
	}
	return fmt.Sprintf("| %s | %s | %d | %d | %d | %d | %d | %s | %s |\n", r.point, r.operation, r.kills, r.lost, r.late, r.doubled, r.leaked, p50, most)
}

// tableOf prints outcomes as Markdown, in the order of the points, with what was not right below.
func tableOf(all []outcome) string {
	var b, wrong strings.Builder
	b.WriteString("| Killed at | during | kills | lost | late | doubled | leaked | recovery p50 | max |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
	sum := &row{point: "**all**"}
	for _, p := range points {
		for _, name := range p.operations {
			r := &row{point: p.name, operation: name}
			for _, o := range all {
				if o.Point == p.name && o.Operation == name {
					r.add(o)
					sum.add(o)
				}
			}
			if r.kills > 0 {
				b.WriteString(r.String())
			}
		}
	}
	b.WriteString(sum.String())
	for _, o := range all {
		if o.bad() {
			fmt.Fprintf(&wrong, "- %s: %s. Load of the machine: %s\n", o.trial, strings.ReplaceAll(o.What, "\n", " "), o.Load)
		}
	}
	if wrong.Len() > 0 {
		b.WriteString("\nNot right, or not in time:\n\n" + wrong.String())
	}
	return b.String()
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s" }

// summary says what was tried.
func summary(all []outcome) string {
	trials, second, most := 0, 0, 0.0
	var seeds []uint64
	for _, o := range all {
		if !o.Reached {
			continue
		}
		trials++
		n, _ := strconv.ParseFloat(o.Load, 64)
		most = max(most, n)
		if o.Kills > 1 {
			second++
		}
		if o.Seed > 0 && !slices.Contains(seeds, o.Seed) {
			seeds = append(seeds, o.Seed)
		}
	}
	slices.Sort(seeds)
	return fmt.Sprintf("%d rounds, %d of them with a second kill, seeds %v, on %d cores with a load of up to %.0f", trials, second, seeds, runtime.NumCPU(), most)
}

// writeTable puts the table in the place of the one of a page, or at its end, and says what it is of.
func writeTable(file, about, text string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, _, _ := strings.Cut(string(b), "| Killed at |")
	date := cmp.Or(os.Getenv("GONDOLA_CRASH_DATE"), time.Now().UTC().Format(time.DateOnly))
	before = regexp.MustCompile(`(?m)^Measured on .*$`).ReplaceAllString(before, "Measured on "+date+" with `make crash`: "+about+".")
	return os.WriteFile(file, []byte(before+text), 0o644)
}
