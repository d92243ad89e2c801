package gondola_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"testing"

	"gondola"
)

// TestStates_DrawnInDocs keeps docs/states.svg equal to the transition table; UPDATE=1 go test . rewrites it.
func TestStates_DrawnInDocs(t *testing.T) {
	want := drawStates()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile("docs/states.svg", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("docs/states.svg")
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("docs/states.svg is not the table of state.go (%v): run UPDATE=1 go test .", err)
	}
}

// drawStates draws the table as a matrix: a row for the state left, a column for the state reached, the cause where they cross.
func drawStates() []byte {
	const cell, left, top, row = 92, 120, 60, 34
	states := gondola.States()
	var b bytes.Buffer
	w, h := left+cell*len(states)+20, top+row*len(states)+30
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", w, h)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/><text x="10" y="20" font-size="14">States of a Machine: from (row) to (column), and why</text>`+"\n", w, h)
	at := map[gondola.State]int{}
	for i, s := range states {
		at[s] = i
		kind := "#eef"
		if s.Transient() {
			kind = "#fe9"
		} else if s.Final() {
			kind = "#ddd"
		}
		fmt.Fprintf(&b, `<rect x="10" y="%d" width="%d" height="%d" fill="%s" stroke="#ccc"/><text x="16" y="%d">%s</text>`+"\n", top+row*i, left-12, row, kind, top+row*i+21, s)
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="10">%s</text>`+"\n", left+cell*i+4, top-8, s)
	}
	for i := range states {
		for j := range states {
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#eee"/>`+"\n", left+cell*j, top+row*i, cell, row)
		}
	}
	for _, m := range gondola.Moves() {
		x, y := left+cell*at[m.To], top+row*at[m.From]
		size := math.Min(10, 150/float64(len(m.Why)))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#cfc" stroke="#9c9"/><text x="%d" y="%d" font-size="%.1f">%s</text>`+"\n", x, y, cell, row, x+3, y+21, size, m.Why)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func TestStates_EveryMoveIsBetweenKnownStatesAndFinalOnesAreNeverLeft(t *testing.T) {
	reached := map[gondola.State]bool{gondola.Created: true, gondola.Replaced: true, gondola.Migrated: true, gondola.Replacing: true}
	for _, m := range gondola.Moves() {
		for _, s := range []gondola.State{m.From, m.To} {
			if _, err := gondola.ParseState(string(s)); err != nil {
				t.Errorf("move %v: %v", m, err)
			}
		}
		if m.From.Final() {
			t.Errorf("%s is final and left by %q", m.From, m.Why)
		}
		reached[m.To] = true
	}
	for _, s := range gondola.States() {
		if !reached[s] {
			t.Errorf("no move leads to %s", s)
		}
		if s.Transient() && !gondola.CanMove(s, gondola.Destroying) && s != gondola.Destroying {
			t.Errorf("a Machine that is %s cannot be destroyed", s)
		}
	}
}
