package drivertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gondola/internal/driver"
)

const (
	reportFile = "../../../docs/drivers.md"
	reportMark = "<!-- make drivers writes all below this line -->\n"
)

// reported are the drivers whose packages run the suite, as TestDriver.
var reported = []string{"gvisor", "runc", "fake"}

// skipped is what Run says when it leaves out a test.
var skipped = regexp.MustCompile(`driver (\S+) has no (.+)\n`)

// lacks returns the names of what a case needs.
func (c testCase) lacks() (names []string) {
	for _, need := range c.needs {
		_, name := need(driver.Capabilities{})
		names = append(names, name)
	}
	return names
}

// TestReport runs the suite on every driver and writes the table of docs/drivers.md when GONDOLA_DRIVERS_REPORT says so (`make drivers`). Else it
// checks that the table is that of this suite: its cases, and none left out but for a capability that it needs.
func TestReport(t *testing.T) {
	page, err := os.ReadFile(reportFile)
	if err != nil {
		t.Fatal(err)
	}
	prose, table, ok := strings.Cut(string(page), reportMark)
	if !ok {
		t.Fatalf("%s lacks the line %q", reportFile, reportMark)
	}
	if os.Getenv("GONDOLA_DRIVERS_REPORT") != "" {
		table = "\n" + reportOf(t)
		t.Log(table)
		if t.Failed() {
			return
		}
		if err := os.WriteFile(reportFile, []byte(prose+reportMark+table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rows := map[string][]string{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|"); len(cells) == 1+len(reported) {
			rows[strings.TrimSpace(cells[0])] = cells[1:]
		}
	}
	for _, c := range cases() {
		cells, ok := rows[c.name]
		if !ok {
			t.Errorf("docs/drivers.md lacks %s: run make drivers", c.name)
		}
		for i, cell := range cells {
			cell = strings.TrimSpace(cell)
			if reason, skip := strings.CutPrefix(cell, "skip: no "); cell != "pass" && !(skip && slices.Contains(c.lacks(), reason)) {
				t.Errorf("%s on %s is %q, want pass, or skip for one of %q", c.name, reported[i], cell, c.lacks())
			}
		}
		delete(rows, c.name)
	}
	delete(rows, "case")
	delete(rows, "---")
	for name := range rows {
		if !strings.HasPrefix(name, "**") {
			t.Errorf("docs/drivers.md has %q, which is no case of the suite: run make drivers", name)
		}
	}
}

// event is a line of `go test -json`.
type event struct{ Action, Package, Test, Output string }

// reportOf runs the suite on every driver, one after the other, and returns what came out as a table.
func reportOf(t *testing.T) string {
	result := map[string]map[string]string{} // driver → case → cell
	for _, name := range reported {
		result[name] = map[string]string{}
		run := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-run", "^TestDriver$", "gondola/internal/driver/"+name)
		out, err := run.Output()
		if err != nil {
			t.Errorf("%v: %v", run, err)
		}
		output := map[string]string{}
		for line := range bytes.Lines(out) {
			var e event
			if json.Unmarshal(line, &e) != nil {
				continue // of the compiler
			}
			test, ok := strings.CutPrefix(e.Test, "TestDriver/")
			if !ok || strings.Contains(test, "/") { // parts of a case are told with it
				continue
			}
			switch e.Action {
			case "output":
				output[test] += e.Output
			case "pass":
				result[name][test] = "pass"
			case "skip":
				result[name][test] = "skip"
				if why := skipped.FindStringSubmatch(output[test]); why != nil {
					result[name][test] += ": no " + why[2]
				}
			case "fail":
				t.Errorf("%s on %s: %s", test, name, output[test])
			}
		}
	}
	var b strings.Builder
	passed := make([]int, len(reported))
	fmt.Fprintf(&b, "| case | %s |\n|---|%s\n", strings.Join(reported, " | "), strings.Repeat("---|", len(reported)))
	for _, c := range cases() {
		fmt.Fprintf(&b, "| %s |", c.name)
		for i, name := range reported {
			cell := result[name][c.name]
			if cell == "pass" {
				passed[i]++
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "| **of %d pass** |", len(cases()))
	for _, n := range passed {
		fmt.Fprintf(&b, " %d |", n)
	}
	return b.String() + "\n"
}
