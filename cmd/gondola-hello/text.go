package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func echo(t *tool) int {
	args, end := t.args, "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	fmt.Fprint(t.out, strings.Join(args, " ")+end)
	return 0
}

func basename(t *tool) int {
	if len(t.args) == 0 {
		return t.failf(2, "basename path [suffix]")
	}
	name := filepath.Base(t.args[0])
	if len(t.args) > 1 && name != t.args[1] {
		name = strings.TrimSuffix(name, t.args[1])
	}
	fmt.Fprintln(t.out, name)
	return 0
}

func dirname(t *tool) int {
	for _, a := range t.args {
		fmt.Fprintln(t.out, filepath.Dir(strings.TrimRight(a, "/")))
	}
	return 0
}

// count reads -n 5, -5 or -c 5.
func (t *tool) count() (n int, bytes bool, o options, files []string, err error) {
	for i, a := range t.args {
		if _, err := strconv.Atoi(strings.TrimPrefix(a, "-")); err == nil && strings.HasPrefix(a, "-") && (i == 0 || t.args[i-1] != "-n" && t.args[i-1] != "-c") {
			t.args[i] = "-n" + a[1:]
		}
	}
	o, files, err = t.options("fqFv", "nc")
	if err != nil {
		return 0, false, nil, nil, err
	}
	n = 10
	for _, c := range []string{"n", "c"} {
		if o.has(c) {
			if n, err = strconv.Atoi(o[c]); err != nil {
				return 0, false, nil, nil, fmt.Errorf("%q is no number", o[c])
			}
			bytes = c == "c"
		}
	}
	return n, bytes, o, files, nil
}

func head(t *tool) int {
	n, bytes, _, files, err := t.count()
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.inputs(files, func(_ string, r io.Reader) error {
		if bytes {
			_, err := io.CopyN(t.out, r, int64(n))
			if err == io.EOF {
				err = nil
			}
			return err
		}
		br := bufio.NewReader(r)
		for range n {
			line, err := br.ReadString('\n')
			fmt.Fprint(t.out, line)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func tail(t *tool) int {
	n, bytes, o, files, err := t.count()
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.inputs(files, func(name string, r io.Reader) error {
		all, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		start := max(len(all)-n, 0)
		if !bytes {
			start = len(all)
			for left := n; start > 0 && left > 0; left-- {
				start = strings.LastIndexByte(string(all[:start-1]), '\n') + 1
			}
		}
		t.out.Write(all[start:])
		if !o.has("f") && !o.has("F") {
			return nil
		}
		return follow(t, r)
	})
}

// follow copies what is appended to a file, for ever.
func follow(t *tool, r io.Reader) error {
	for range time.Tick(200 * time.Millisecond) {
		if _, err := io.Copy(t.out, r); err != nil {
			return err
		}
		if err := t.out.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func wc(t *tool) int {
	o, files, err := t.options("lwcm", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.inputs(files, func(name string, r io.Reader) error {
		all, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		var cells []string
		for _, c := range []struct {
			flag string
			n    int
		}{{"l", strings.Count(string(all), "\n")}, {"w", len(strings.Fields(string(all)))}, {"c", len(all)}} {
			if len(o) == 0 || o.has(c.flag) {
				cells = append(cells, strconv.Itoa(c.n))
			}
		}
		if name != "-" {
			cells = append(cells, name)
		}
		_, err = fmt.Fprintln(t.out, strings.Join(cells, " "))
		return err
	})
}

// lines calls f for every line, without its end.
func lines(r io.Reader, f func(string) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		if err := f(sc.Text()); err != nil {
			return err
		}
	}
	return sc.Err()
}

// grep takes Go's regular expressions, which are those of grep -E.
func grep(t *tool) int {
	o, args, err := t.options("ivcqnFErlos", "e")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	pattern, ok := o["e"]
	if !ok {
		if len(args) == 0 {
			return t.failf(2, "grep [-ivcqnFErlo] pattern [file…]")
		}
		pattern, args = args[0], args[1:]
	}
	if o.has("F") {
		pattern = regexp.QuoteMeta(pattern)
	}
	if o.has("i") {
		pattern = "(?i)" + pattern
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return t.failf(2, "%v", err)
	}
	if o.has("r") {
		args = filesBelow(args)
	}
	many, found := len(args) > 1 || o.has("r"), false
	code := t.inputs(args, func(name string, r io.Reader) error {
		number, count, prefix := 0, 0, ""
		if many {
			prefix = name + ":"
		}
		err := lines(r, func(line string) error {
			number++
			if re.MatchString(line) == o.has("v") {
				return nil
			}
			count++
			if o.has("q") || o.has("c") || o.has("l") {
				return nil
			}
			if o.has("o") {
				line = strings.Join(re.FindAllString(line, -1), "\n")
			}
			if o.has("n") {
				line = strconv.Itoa(number) + ":" + line
			}
			fmt.Fprintln(t.out, prefix+line)
			return t.out.Flush()
		})
		found = found || count > 0
		switch {
		case o.has("q"):
		case o.has("c"):
			fmt.Fprintf(t.out, "%s%d\n", prefix, count)
		case o.has("l") && count > 0:
			fmt.Fprintln(t.out, name)
		}
		return err
	})
	if code != 0 {
		return 2
	}
	if !found {
		return 1
	}
	return 0
}

func filesBelow(names []string) (files []string) {
	if len(names) == 0 {
		names = []string{"."}
	}
	for _, n := range names {
		// What cannot be read is left out, as with grep -s.
		_ = filepath.WalkDir(n, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return nil
		})
	}
	return files
}

func sortLines(t *tool) int {
	o, files, err := t.options("rnu", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	var all []string
	code := t.inputs(files, func(_ string, r io.Reader) error {
		return lines(r, func(l string) error { all = append(all, l); return nil })
	})
	number := func(s string) float64 {
		fields := strings.Fields(s)
		if len(fields) == 0 {
			return 0
		}
		n, _ := strconv.ParseFloat(fields[0], 64)
		return n
	}
	slices.SortStableFunc(all, func(a, b string) int {
		order := strings.Compare(a, b)
		if o.has("n") && number(a) != number(b) {
			order = 1
			if number(a) < number(b) {
				order = -1
			}
		}
		if o.has("r") {
			order = -order
		}
		return order
	})
	if o.has("u") {
		all = slices.Compact(all)
	}
	for _, l := range all {
		fmt.Fprintln(t.out, l)
	}
	return code
}

func uniq(t *tool) int {
	o, files, err := t.options("cd", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	last, count := "", 0
	flush := func() {
		switch {
		case count == 0 || o.has("d") && count == 1:
		case o.has("c"):
			fmt.Fprintf(t.out, "%7d %s\n", count, last)
		default:
			fmt.Fprintln(t.out, last)
		}
	}
	code := t.inputs(files, func(_ string, r io.Reader) error {
		return lines(r, func(l string) error {
			if count > 0 && l == last {
				count++
				return nil
			}
			flush()
			last, count = l, 1
			return nil
		})
	})
	flush()
	return code
}

// cut knows -d and -f with numbers and ranges.
func cut(t *tool) int {
	o, files, err := t.options("", "df")
	if err != nil || o["f"] == "" {
		return t.failf(2, "cut [-d x] -f 1,3-5 [file…]")
	}
	sep := "\t"
	if o["d"] != "" {
		sep = o["d"]
	}
	wanted := func(n int) bool {
		for part := range strings.SplitSeq(o["f"], ",") {
			from, to, ranged := strings.Cut(part, "-")
			a, _ := strconv.Atoi(from)
			b, err := strconv.Atoi(to)
			if !ranged {
				b = a
			} else if err != nil {
				b = 1 << 30
			}
			if n >= a && n <= b {
				return true
			}
		}
		return false
	}
	return t.inputs(files, func(_ string, r io.Reader) error {
		return lines(r, func(l string) error {
			var keep []string
			fields := strings.Split(l, sep)
			for i, f := range fields {
				if wanted(i+1) || len(fields) == 1 {
					keep = append(keep, f)
				}
			}
			_, err := fmt.Fprintln(t.out, strings.Join(keep, sep))
			return err
		})
	})
}

// tr replaces or, with -d, deletes characters; sets are lists with ranges.
func tr(t *tool) int {
	o, sets, err := t.options("d", "")
	if err != nil || len(sets) == 0 || !o.has("d") && len(sets) < 2 {
		return t.failf(2, "tr [-d] set [set]")
	}
	from := expandSet(sets[0])
	var to []rune
	if !o.has("d") {
		to = expandSet(sets[1])
	}
	br := bufio.NewReader(t.in)
	for {
		r, _, err := br.ReadRune()
		if err == io.EOF {
			return 0
		}
		if err != nil {
			return t.fail1(err)
		}
		switch i := slices.Index(from, r); {
		case i < 0:
			t.out.WriteRune(r)
		case len(to) > 0:
			t.out.WriteRune(to[min(i, len(to)-1)])
		}
	}
}

func expandSet(s string) (set []rune) {
	r := []rune(strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\r`, "\r", `\0`, "\x00", `\\`, `\`).Replace(s))
	for i := 0; i < len(r); i++ {
		if i+2 < len(r) && r[i+1] == '-' {
			for c := r[i]; c <= r[i+2]; c++ {
				set = append(set, c)
			}
			i += 2
			continue
		}
		set = append(set, r[i])
	}
	return set
}

func seq(t *tool) int {
	var n []int
	for _, a := range t.args {
		v, err := strconv.Atoi(a)
		if err != nil {
			return t.failf(2, "%q is no number", a)
		}
		n = append(n, v)
	}
	first, step, last := 1, 1, 0
	switch len(n) {
	case 1:
		last = n[0]
	case 2:
		first, last = n[0], n[1]
	case 3:
		first, step, last = n[0], n[1], n[2]
	default:
		return t.failf(2, "seq [first [step]] last")
	}
	if step == 0 {
		return t.failf(2, "a step of 0 leads nowhere")
	}
	for i := first; step > 0 && i <= last || step < 0 && i >= last; i += step {
		if _, err := fmt.Fprintln(t.out, i); err != nil {
			return 1
		}
	}
	return 0
}

// xargs knows -n and -I.
func xargs(t *tool) int {
	size, replace, args := 1<<30, "", t.args
	for len(args) >= 2 && (args[0] == "-n" || args[0] == "-I") {
		if args[0] == "-I" {
			replace, size = args[1], 1
		} else if n, err := strconv.Atoi(args[1]); err == nil && n > 0 {
			size = n
		} else {
			return t.failf(2, "-n %s is no number", args[1])
		}
		args = args[2:]
	}
	if len(args) == 0 {
		args = []string{"echo"}
	}
	all, err := io.ReadAll(t.in)
	if err != nil {
		return t.fail1(err)
	}
	words := strings.Fields(string(all))
	if replace != "" {
		words = strings.FieldsFunc(string(all), func(r rune) bool { return r == '\n' })
	}
	code := 0
	for chunk := range slices.Chunk(words, size) {
		call := slices.Concat(args, chunk)
		if replace != "" {
			call = slices.Clone(args)
			for i := range call {
				call[i] = strings.ReplaceAll(call[i], replace, chunk[0])
			}
		}
		cmd := program(call)
		cmd.Stdout, cmd.Stderr = os.Stdout, t.err
		if err := cmd.Run(); err != nil {
			code = 123
			if _, ended := err.(*exec.ExitError); !ended {
				t.fail1(err)
			}
		}
	}
	return code
}
