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
	Began   time.Time     `json:"began,omitzero"`
	Ended   time.Time     `json:"ended,omitzero"`
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

	Parts    int      `json:"parts"`    // runs that it was put together from: 1, or more when it was resumed
	Builds   []string `json:"builds"`   // of gondola, that took part
	Attached bool     `json:"attached"` // some part ran on a cluster that was there before

	Name          string            `json:"name,omitempty"`    // among several runs
	Left          []string          `json:"left,omitempty"`    // behind, on the host
	Purged        bool              `json:"purged,omitempty"`  // the cluster was taken down after it,
	Remains       []string          `json:"remains,omitempty"` // and these were still on the host
	Killed, Ready time.Time         `json:",omitzero"`         // when the daemon was killed, and when the next was ready; zero: it was not
	Again         map[string]result `json:"again,omitempty"`
}

// begin notes that another part of the results is about to be run, by this build of gondola.
func (r *results) begin(build string, attached bool) {
	r.Parts, r.Version, r.Attached = r.Parts+1, build, r.Attached || attached
	if !slices.Contains(r.Builds, build) {
		r.Builds = append(r.Builds, build)
	}
}

// how says whether the results are those of one run of everything, from nothing.
func (r *results) how() string {
	var text string
	switch {
	case r.Parts == 1 && r.Attached:
		text = "one run, on a cluster that was there"
	case r.Parts == 1:
		text = "one whole run, from nothing"
	case r.Parts == 0: // of before this was noted
		text = "put together by resumed runs"
	default:
		text = fmt.Sprintf("put together by %d runs", r.Parts)
	}
	if len(r.Builds) > 1 {
		text += fmt.Sprintf(" of %d builds", len(r.Builds))
	}
	return text
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
		StartTime, EndTime      time.Time
		Failure                 struct{ Message string }
	}
}

// suiteTimeout is what ginkgo says of a spec that ran when the time for all of them was up.
const suiteTimeout = "A suite timeout occurred"

// take adds what a report of ginkgo says. A spec that was broken off, or for which there was no time, has not been reached.
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
			got := result{Passed: s.State == "passed", Began: s.StartTime, Ended: s.EndTime, Took: s.RunTime, Message: s.Failure.Message}
			switch {
			case s.State == "passed":
				r.Specs[name] = got
			case s.State == "skipped" || s.State == "pending" || s.State == "":
			case s.State == "interrupted" || s.State == "aborted" || strings.Contains(s.Failure.Message, suiteTimeout):
				delete(r.Specs, name)
			default: // failed, panicked, timedout
				r.Specs[name] = got
			}
		}
	}
	return nil
}

// severalHeading begins the part of RESULTS.md about several runs on one cluster; the part before it and this one are written at different times.
const severalHeading = "## Several runs on one cluster"

// writePart writes one part of RESULTS.md and keeps the other.
func writePart(file, whole, several string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	oldWhole, oldSeveral, _ := strings.Cut(string(old), severalHeading)
	if whole == "" {
		whole = oldWhole
	}
	if several == "" && oldSeveral != "" {
		several = severalHeading + oldSeveral
	}
	text := strings.TrimSpace(whole) + "\n"
	if several != "" {
		text += "\n" + several
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// wholeTable is the part of RESULTS.md about all kinds of runs there are.
func wholeTable(specs []string, runs []*results, causes [][2]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Kubernetes conformance, %s\n\nWritten by `make conformance`: upstream's own %d specs, none left out, on real sandboxes, two regions. Within a run no spec is tried twice; a resumed run tries again what had not passed.\n\n", version, len(specs))
	b.WriteString("| run | passed | failed | not reached | took | how | gondola | ended |\n|---|---|---|---|---|---|---|---|\n")
	node := ofNodes(specs)
	for _, r := range runs {
		p, f, o := r.count(specs)
		fmt.Fprintf(&b, "| %s | **%d** of %d | %d | %d | %s | %s | %s | %s |\n", r.Drivers, p, len(specs), f, o, r.Took.Round(time.Second), r.how(), r.Version, r.Ended.UTC().Format("2006-01-02 15:04"))
		p, f, o = r.count(node)
		fmt.Fprintf(&b, "| %s, of these NodeConformance | **%d** of %d | %d | %d | | | | |\n", r.Drivers, p, len(node), f, o)
	}
	for _, r := range runs {
		if r.Purged {
			fmt.Fprintf(&b, "\nLeft on the host by the run %s after `gondola down --purge`: %s.\n", r.Drivers, leftBehind(r.Remains))
		}
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
	return b.String()
}

// ofNodes are the specs that try a node alone: NodeConformance.
func ofNodes(specs []string) (out []string) {
	for _, s := range specs {
		if strings.Contains(s, "[NodeConformance]") {
			out = append(out, s)
		}
	}
	return out
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

// readCauses reads lines of the form "part of a spec's name => cause".
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
