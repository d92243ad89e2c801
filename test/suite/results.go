package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// result is what became of one spec.
type result struct {
	Passed  bool          `json:"passed"`
	Took    time.Duration `json:"took,omitempty"`
	Message string        `json:"message,omitempty"` // why it failed
}

// results is the file of one kind of run (the drivers that are allowed), which a resumed run goes on with.
type results struct {
	Drivers string            `json:"drivers"`
	Version string            `json:"version"` // of gondola
	Ended   time.Time         `json:"ended"`
	Took    time.Duration     `json:"took"`  // all runs together
	Specs   map[string]result `json:"specs"` // by full name; those that were not reached have none
}

func loadResults(file string) (*results, error) {
	r := &results{Specs: map[string]result{}}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w: remove it to begin anew", file, err)
	}
	return r, nil
}

func (r *results) save(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// count says how many of the specs passed, failed and were not reached.
func (r *results) count(specs []string) (passed, failed, open int) {
	for _, s := range specs {
		switch got, ran := r.Specs[s]; {
		case !ran:
			open++
		case got.Passed:
			passed++
		default:
			failed++
		}
	}
	return passed, failed, open
}

// ginkgoReport is the part of ginkgo's JSON report that is read.
type ginkgoReport struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeText            string
		LeafNodeType            string
		State                   string
		RunTime                 time.Duration
		Failure                 struct{ Message string }
	}
}

// take adds what a report of ginkgo says. A spec that was broken off has not been reached.
func (r *results) take(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var reports []ginkgoReport
	if err := json.Unmarshal(b, &reports); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, report := range reports {
		for _, s := range report.SpecReports {
			name := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
			if s.LeafNodeType != "It" {
				if s.State != "passed" && s.State != "skipped" {
					fmt.Printf("%s: %s: %s\n", s.LeafNodeType, s.State, firstLines(s.Failure.Message, 3))
				}
				continue
			}
			switch s.State {
			case "passed":
				r.Specs[name] = result{Passed: true, Took: s.RunTime}
			case "skipped", "pending", "interrupted", "aborted", "":
			default: // failed, panicked, timedout
				r.Specs[name] = result{Took: s.RunTime, Message: s.Failure.Message}
			}
		}
	}
	return nil
}

// writeTable writes RESULTS.md out of all kinds of runs there are.
func writeTable(file string, specs []string, runs []*results, causes [][2]string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Kubernetes conformance, %s\n\nWritten by `make conformance`: upstream's own %d specs, none left out, on real sandboxes, two regions. Within a run no spec is tried twice; a resumed run tries again what had not passed.\n\n", version, len(specs))
	b.WriteString("| run | passed | failed | not reached | took | gondola | ended |\n|---|---|---|---|---|---|---|\n")
	for _, r := range runs {
		p, f, o := r.count(specs)
		fmt.Fprintf(&b, "| %s | **%d** of %d | %d | %d | %s | %s | %s |\n", r.Drivers, p, len(specs), f, o, r.Took.Round(time.Second), r.Version, r.Ended.UTC().Format("2006-01-02 15:04"))
	}
	for _, r := range runs {
		fmt.Fprintf(&b, "\n## %s\n\n| sig | passed | failed | not reached |\n|---|---|---|---|\n", r.Drivers)
		bySig := map[string][]string{}
		for _, s := range specs {
			bySig[sigOf(s)] = append(bySig[sigOf(s)], s)
		}
		for _, sig := range slices.Sorted(maps.Keys(bySig)) {
			p, f, o := r.count(bySig[sig])
			fmt.Fprintf(&b, "| %s | %d of %d | %d | %d |\n", sig, p, len(bySig[sig]), f, o)
		}
		b.WriteString(r.failures(specs, causes))
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// failures is a table of the specs that failed.
func (r *results) failures(specs []string, causes [][2]string) string {
	var rows []string
	for _, s := range specs {
		if got, ran := r.Specs[s]; ran && !got.Passed {
			rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", cell(s), cell(firstLines(got.Message, 1)), cell(causeOf(s, causes))))
		}
	}
	if len(rows) == 0 {
		return ""
	}
	return "\n| failed | reason | cause |\n|---|---|---|\n" + strings.Join(rows, "")
}

func cell(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ") }

func firstLines(s string, n int) string {
	l := strings.SplitN(strings.TrimSpace(s), "\n", n+1)
	return strings.Join(l[:min(n, len(l))], " ")
}

// causeOf is what is known about why a spec fails: the first line of causes whose beginning is part of its name.
func causeOf(spec string, causes [][2]string) string {
	for _, c := range causes {
		if strings.Contains(spec, c[0]) {
			return c[1]
		}
	}
	return "not known yet"
}

// readCauses reads lines of the form "part of a spec's name: cause".
func readCauses(file string) ([][2]string, error) {
	all, err := lines(file)
	var out [][2]string
	for _, l := range all {
		if spec, cause, ok := strings.Cut(l, " => "); ok {
			out = append(out, [2]string{spec, cause})
		}
	}
	return out, err
}

// allRuns are the results of every kind of run in a folder.
func allRuns(dir string) ([]*results, error) {
	files, err := filepath.Glob(filepath.Join(dir, "results-*.json"))
	if err != nil {
		return nil, err
	}
	var out []*results
	for _, f := range files {
		r, err := loadResults(f)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *results) int { return cmp.Compare(a.Drivers, b.Drivers) })
	return out, nil
}
