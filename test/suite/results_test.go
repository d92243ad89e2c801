package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func at(second int) time.Time { return time.Unix(int64(second), 0).UTC() }

func TestTake_ASpecThatRanOutOfTheSuitesTimeWasNotReached(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ginkgo.json")
	report := `[{"SpecReports": [
		{"LeafNodeType": "It", "LeafNodeText": "good", "State": "passed"},
		{"LeafNodeType": "It", "LeafNodeText": "bad", "State": "failed", "Failure": {"Message": "no"}},
		{"LeafNodeType": "It", "LeafNodeText": "slow", "State": "timedout", "Failure": {"Message": "A spec timeout occurred"}},
		{"LeafNodeType": "It", "LeafNodeText": "late", "State": "timedout", "Failure": {"Message": "A suite timeout occurred"}},
		{"LeafNodeType": "It", "LeafNodeText": "broken off", "State": "interrupted"},
		{"LeafNodeType": "It", "LeafNodeText": "passed before", "State": "skipped"}]}]`
	if err := os.WriteFile(file, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &results{Specs: map[string]result{"late": {Message: "lost"}, "broken off": {Message: "lost"}, "passed before": {Passed: true}}}
	if err := r.take(file); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{"good": "passed", "bad": "failed", "slow": "failed", "late": "not reached", "broken off": "not reached", "passed before": "passed"} {
		if got := r.verdict(spec); got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
}

func TestHow_TellsAWholeRunFromResumedOnes(t *testing.T) {
	r := &results{}
	r.begin("v1", false)
	if got := r.how(); got != "one whole run, from nothing" {
		t.Errorf("the first run is %q", got)
	}
	r.begin("v1", false)
	r.begin("v2", false)
	if got := r.how(); got != "put together by 3 runs of 2 builds" {
		t.Errorf("after two resumed runs it is %q", got)
	}
}

func TestRounds_DifferencesAndLeftoversAreFaults(t *testing.T) {
	pass, fail := result{Passed: true}, result{Message: "no"}
	during := result{Began: at(5), Ended: at(12), Message: "connection refused"}
	before := result{Began: at(1), Ended: at(9), Passed: true}
	rs := &rounds{Specs: []string{"a", "b", "c"}, Runs: []*results{
		{Name: "run 1", Specs: map[string]result{"a": pass, "b": pass, "c": pass}},
		{Name: killed, Specs: map[string]result{"a": during, "b": before, "c": pass}, Killed: at(10), Ready: at(20), Again: map[string]result{"a": pass}},
	}}
	if met := rs.Runs[1].met(rs.Specs); !slices.Equal(met, []string{"a"}) {
		t.Errorf("the kill met %v, want a", met)
	}
	if f := rs.faults(); len(f) > 0 {
		t.Errorf("faults = %q, want none: what failed for want of an API server passed when run again", f)
	}
	rs.Runs[1].Again["a"] = fail
	rs.Runs[0].Left = inventory{"cgroup x": 1, "link veth1": 3, "mount m": 1}.beyond(inventory{"link veth1": 1, "mount m": 1, "gone": 1})
	if want := []string{"2 times link veth1", "cgroup x"}; len(rs.Runs[0].Left) != 2 || !slices.Contains(rs.Runs[0].Left, want[0]) || !slices.Contains(rs.Runs[0].Left, want[1]) {
		t.Errorf("left = %q, want %q", rs.Runs[0].Left, want)
	}
	if f := rs.faults(); len(f) != 2 || !slices.Equal(rs.differences(), []string{"a"}) {
		t.Errorf("faults = %q of %v, want one for spec a and one for what was left", f, rs.differences())
	}
	for _, want := range []string{"| a | passed | failed |", "2 times link veth1", "0 passed and 1 failed", "10s later"} {
		if !strings.Contains(rs.table(), want) {
			t.Errorf("the table has no %q:\n%s", want, rs.table())
		}
	}
}

func TestWritePart_KeepsTheOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	for _, step := range []struct{ whole, several, want string }{
		{"# whole 1\n", "", "# whole 1\n"},
		{"", severalHeading + "\n\none\n", "# whole 1\n\n" + severalHeading + "\n\none\n"},
		{"# whole 2\n", "", "# whole 2\n\n" + severalHeading + "\n\none\n"},
		{"", severalHeading + "\n\ntwo\n", "# whole 2\n\n" + severalHeading + "\n\ntwo\n"},
	} {
		if err := writePart(file, step.whole, step.several); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(file); string(got) != step.want {
			t.Errorf("after %+v the page is %q", step, got)
		}
	}
}
