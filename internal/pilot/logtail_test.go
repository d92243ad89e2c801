package pilot_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

// storedLog is a log as a pilot leaves it, with the text of its lines, each ending with a newline.
type storedLog struct {
	file  strings.Builder
	lines []string // stdout or stderr, a space, the text
}

// add stores a line in so many pieces.
func (l *storedLog) add(stream string, pieces ...string) {
	for i, p := range pieces {
		tag := "P"
		if i == len(pieces)-1 {
			tag = "F"
		}
		fmt.Fprintf(&l.file, "2026-11-22T08:00:00.000000000Z %s %s %s\n", stream, tag, p)
	}
	l.lines = append(l.lines, stream+" "+strings.Join(pieces, "")+"\n")
}

// last is the text of the last n lines of a stream, of both if it is empty.
func (l *storedLog) last(n int, stream string) string {
	var out []string
	for _, line := range l.lines {
		if name, text, _ := strings.Cut(line, " "); stream == "" || stream == name {
			out = append(out, text)
		}
	}
	return strings.Join(out[max(0, len(out)-n):], "")
}

func TestLogs_TailOfALongLogIsItsLastLines(t *testing.T) {
	dir := t.TempDir()
	var log storedLog
	random := rand.New(rand.NewPCG(1, 2))
	write := func(name string, size int) {
		log.file.Reset()
		for log.file.Len() < size {
			stream, pieces := "stdout", []string{}
			if random.IntN(5) == 0 {
				stream = "stderr"
			}
			for range 1 + random.IntN(3) {
				pieces = append(pieces, fmt.Sprint(len(log.lines), strings.Repeat("x", random.IntN(200))))
			}
			log.add(stream, pieces...)
		}
		path := filepath.Join(dir, "logs", "main", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(log.file.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("0.log.1", 200<<10)
	write("0.log", 3<<19)
	counts := []int{1000, 3000, len(log.lines) - 5, len(log.lines), 1 << 20}
	for n := range 60 {
		counts = append(counts, n)
	}
	for _, stream := range []string{"", "stdout", "stderr"} {
		for _, n := range counts {
			tail := int64(n)
			r, err := pilot.OpenLog(t.Context(), dir, gondola.LogOptions{Container: "main", Stream: stream, Tail: &tail})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if want := log.last(n, stream); err != nil || string(got) != want {
				t.Errorf("tail %d of stream %q has %d bytes and error %v, want the last %d", n, stream, len(got), err, len(want))
			}
		}
	}
}

// The end of a line that began long ago is no line.
func TestLogs_TailCountsWhereLinesBegin(t *testing.T) {
	dir := t.TempDir()
	const head = "2026-11-22T08:00:00.000000000Z "
	file := head + "stderr P long ago, \n" + strings.Repeat(head+"stdout F "+strings.Repeat("x", 99)+"\n", 2000) +
		head + "stdout F last but three\n" + head + "stderr F and its end\n" + strings.Repeat(head+"stdout F last\n", 3)
	if err := os.MkdirAll(filepath.Join(dir, "logs", "main"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "logs", "main", "0.log"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	four := int64(4)
	r, err := pilot.OpenLog(t.Context(), dir, gondola.LogOptions{Container: "main", Tail: &four})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "last but three\nand its end\nlast\nlast\nlast\n" {
		t.Errorf("tail 4 = %q, %v, want the four lines that began last", got, err)
	}
}

// A container may write faster than its log is read: who does not follow gets an end all the same.
func TestLogs_EndWhereTheLogEndedWhenItWasOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "main", "0.log")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	one := int64(1)
	for _, row := range []struct {
		name string
		tail *int64
		want string
	}{{"whole", nil, "a\nb\n"}, {"tail", &one, "b\n"}} {
		t.Run(row.name, func(t *testing.T) {
			var log storedLog
			log.add("stdout", "a")
			log.add("stdout", "b")
			if err := os.WriteFile(path, []byte(log.file.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := pilot.OpenLog(t.Context(), filepath.Dir(filepath.Dir(filepath.Dir(path))), gondola.LogOptions{Container: "main", Tail: row.tail})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			log.add("stdout", "later")
			if err := os.WriteFile(path, []byte(log.file.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || string(got) != row.want {
				t.Errorf("log = %q, %v, want %q", got, err, row.want)
			}
		})
	}
}
