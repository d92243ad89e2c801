package pilot_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// While a log is rotated, there is for a moment no file that is written to: that is not its end.
func TestLogs_FollowerOutlastsARotation(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "logs", "main", "0")
	if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
		t.Fatal(err)
	}
	var old, later storedLog
	old.add("stdout", "before")
	later.add("stdout", "after")
	if err := os.WriteFile(base+".log", []byte(old.file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := pilot.OpenLog(t.Context(), dir, gondola.LogOptions{Container: "main", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in := bufio.NewReader(r)
	if line, err := in.ReadString('\n'); err != nil || line != "before\n" {
		t.Fatalf("first line = %q, %v", line, err)
	}
	if err := errors.Join(os.WriteFile(base+".new", []byte(later.file.String()), 0o600), os.Rename(base+".log", base+".log.1")); err != nil {
		t.Fatal(err)
	}
	rotated := make(chan error, 1)
	time.AfterFunc(100*time.Millisecond, func() {
		rotated <- errors.Join(os.Rename(base+".new", base+".log"), os.WriteFile(base+".end", nil, 0o600))
	})
	rest, err := io.ReadAll(in)
	if string(rest) != "after\n" || err != nil {
		t.Errorf("what was followed after the rotation began = %q, %v", rest, err)
	}
	if err := <-rotated; err != nil {
		t.Error(err)
	}
}

// A pilot that dies while it rotates leaves a log that ends, and goes, as any other.
func TestLogs_OfAPilotThatDiedInARotationEnd(t *testing.T) {
	spec := testSpec(t, "echo up; sleep 60")
	sup, end := run(t, spec, newProcesses(t))
	await(t, sup, "running", isRunning)
	awaitLine(t, spec, "up")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := pilot.OpenLog(ctx, spec.Dir, gondola.LogOptions{Container: "main", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	end()
	base := filepath.Join(spec.Dir, "logs", "main", "0")
	if err := errors.Join(os.WriteFile(base+".new", nil, 0o600), os.Rename(base+".log", base+".log.1")); err != nil {
		t.Fatal(err)
	}
	sup, end = run(t, spec, newProcesses(t)) // and the sandbox with it
	await(t, sup, "the second run", isRunning)
	if all, err := io.ReadAll(r); err != nil || string(all) != "up\n" || ctx.Err() != nil {
		t.Errorf("log of the first run = %q, %v, %v, want it to end", all, err, ctx.Err())
	}
	end()
	sup, _ = run(t, spec, newProcesses(t))
	await(t, sup, "the third run", isRunning)
	if left, err := filepath.Glob(base + ".*"); err != nil || len(left) > 0 {
		t.Errorf("of the first run's log %q are left, %v, want nothing once there are two later ones", left, err)
	}
}
