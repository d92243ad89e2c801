package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func succeed(*tool) int { return 0 }
func fail(*tool) int    { return 1 }

func clearScreen(t *tool) int {
	fmt.Fprint(t.out, "\x1b[H\x1b[2J")
	return 0
}

// program prepares a command: one from PATH, or a tool of this program.
func program(call []string) *exec.Cmd {
	if _, err := exec.LookPath(call[0]); err != nil && tools()[call[0]] != nil {
		cmd := exec.Command("/proc/self/exe", call[1:]...)
		cmd.Args[0] = call[0]
		return cmd
	}
	return exec.Command(call[0], call[1:]...)
}

// env prints the environment, or runs a command in a changed one: env [-i] [-u name] [name=value…] [command…].
func env(t *tool) int {
	vars, args := os.Environ(), t.args
	for len(args) > 0 {
		switch {
		case args[0] == "-i" || args[0] == "-":
			vars = nil
		case args[0] == "-u" && len(args) > 1:
			args = args[1:]
			vars = slices.DeleteFunc(vars, func(v string) bool { return strings.HasPrefix(v, args[0]+"=") })
		case strings.Contains(args[0], "="):
			vars = append(vars, args[0])
		default:
			return replaceSelf(t, args, vars)
		}
		args = args[1:]
	}
	for _, v := range vars {
		fmt.Fprintln(t.out, v)
	}
	return 0
}

// replaceSelf becomes another program.
func replaceSelf(t *tool, args, vars []string) int {
	cmd := program(args)
	if cmd.Err != nil {
		return t.failf(127, "%v", cmd.Err)
	}
	t.out.Flush()
	return t.failf(126, "%s: %v", args[0], syscall.Exec(cmd.Path, cmd.Args, vars))
}

func printenv(t *tool) int {
	if len(t.args) == 0 {
		return env(t)
	}
	code := 0
	for _, name := range t.args {
		if v, ok := os.LookupEnv(name); ok {
			fmt.Fprintln(t.out, v)
		} else {
			code = 1
		}
	}
	return code
}

// sleep takes seconds with a fraction, durations such as 5m, or "infinity".
func sleep(t *tool) int {
	var total time.Duration
	for _, a := range t.args {
		if a == "infinity" || a == "inf" {
			total = 1<<63 - 1
			break
		}
		d, err := time.ParseDuration(a)
		if err != nil {
			d, err = time.ParseDuration(a + "s")
		}
		if err != nil {
			return t.failf(2, "%q is no time", a)
		}
		total += d
	}
	<-time.After(total)
	return 0
}

func id(t *tool) int {
	o, _, err := t.options("ugnG", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	groups, err := os.Getgroups()
	if err != nil {
		return t.fail1(err)
	}
	show := func(n int, name func(int) string) string {
		if o.has("n") {
			return name(n)
		}
		return strconv.Itoa(n)
	}
	switch {
	case o.has("u"):
		fmt.Fprintln(t.out, show(uid, userName))
	case o.has("g"):
		fmt.Fprintln(t.out, show(gid, groupName))
	case o.has("G"):
		for _, g := range groups {
			fmt.Fprint(t.out, show(g, groupName), " ")
		}
		fmt.Fprintln(t.out)
	default:
		var all []string
		for _, g := range groups {
			all = append(all, fmt.Sprintf("%d(%s)", g, groupName(g)))
		}
		fmt.Fprintf(t.out, "uid=%d(%s) gid=%d(%s)", uid, userName(uid), gid, groupName(gid))
		if len(all) > 0 {
			fmt.Fprintf(t.out, " groups=%s", strings.Join(all, ","))
		}
		fmt.Fprintln(t.out)
	}
	return 0
}

func whoami(t *tool) int {
	u, err := user.Current()
	if err != nil {
		fmt.Fprintln(t.out, os.Geteuid())
		return 0
	}
	fmt.Fprintln(t.out, u.Username)
	return 0
}

func hostname(t *tool) int {
	name, err := os.Hostname()
	if err != nil {
		return t.fail1(err)
	}
	if len(t.args) > 0 && (t.args[0] == "-i" || t.args[0] == "-I") {
		name = strings.Join(addresses(), " ")
	}
	fmt.Fprintln(t.out, name)
	return 0
}

func pwd(t *tool) int {
	dir, err := os.Getwd()
	if err != nil {
		return t.fail1(err)
	}
	fmt.Fprintln(t.out, dir)
	return 0
}

func uname(t *tool) int {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return t.fail1(err)
	}
	o, _, err := t.options("asnrvm", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	var parts []string
	for _, p := range []struct {
		flag  string
		value []byte
	}{{"s", u.Sysname[:]}, {"n", u.Nodename[:]}, {"r", u.Release[:]}, {"v", u.Version[:]}, {"m", u.Machine[:]}} {
		if o.has(p.flag) || o.has("a") || len(o) == 0 && p.flag == "s" {
			parts = append(parts, unix.ByteSliceToString(p.value))
		}
	}
	fmt.Fprintln(t.out, strings.Join(parts, " "))
	return 0
}

func which(t *tool) int {
	return t.each(t.args, func(name string) error {
		path, err := exec.LookPath(name)
		if err == nil {
			fmt.Fprintln(t.out, path)
		}
		return err
	})
}

// date prints the time: date [-u] [-Iseconds] [+format].
func date(t *tool) int {
	now, format := time.Now(), "%a %b %e %H:%M:%S %Z %Y"
	for _, a := range t.args {
		switch {
		case a == "-u":
			now = now.UTC()
		case a == "-Is" || a == "-Iseconds":
			format = "%Y-%m-%dT%H:%M:%S%:z"
		case strings.HasPrefix(a, "+"):
			format = a[1:]
		default:
			return t.failf(2, "unknown argument %s: there are -u, -Iseconds and +format", a)
		}
	}
	fmt.Fprintln(t.out, strftime(now, format))
	return 0
}

func strftime(now time.Time, format string) string {
	layouts := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'N': "000000000", 'p': "PM",
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'Z': "MST", 'z': "-0700", 'y': "06", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'j': "002"}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch c := format[i]; {
		case c == 's':
			fmt.Fprint(&b, now.Unix())
		case c == 'N':
			fmt.Fprintf(&b, "%09d", now.Nanosecond())
		case c == '%':
			b.WriteByte('%')
		case c == 'n':
			b.WriteByte('\n')
		case c == ':' && i+1 < len(format):
			i++
			b.WriteString(now.Format("-07:00"))
		case layouts[c] != "":
			b.WriteString(now.Format(layouts[c]))
		default:
			b.WriteString("%" + string(c))
		}
	}
	return b.String()
}

// ps lists the processes that /proc shows.
func ps(t *tool) int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return t.fail1(err)
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	fmt.Fprintf(t.out, "%7s %7s %-8s %-4s %s\n", "PID", "PPID", "USER", "STAT", "COMMAND")
	for _, dir := range dirs {
		st, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): the name is in parentheses and may hold anything.
		open, end := strings.IndexByte(string(st), '('), strings.LastIndexByte(string(st), ')')
		if open < 0 || end < open {
			continue
		}
		name, rest := string(st[open+1:end]), strings.Fields(string(st[end+1:]))
		if len(rest) < 2 {
			continue
		}
		command := "[" + name + "]"
		if line, err := os.ReadFile(dir + "/cmdline"); err == nil && len(line) > 0 {
			command = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		}
		owner := "?"
		if fi, err := os.Stat(dir); err == nil {
			owner = userName(int(fi.Sys().(*syscall.Stat_t).Uid))
		}
		fmt.Fprintf(t.out, "%7s %7s %-8s %-4s %s\n", filepath.Base(dir), rest[1], owner, rest[0], command)
	}
	return 0
}

// kill sends a signal: kill [-TERM | -15 | -s TERM] pid…, or lists them with -l.
func kill(t *tool) int {
	sig, args := syscall.SIGTERM, t.args
	if len(args) > 0 && args[0] == "-l" {
		for n := syscall.Signal(1); n < 32; n++ {
			fmt.Fprintf(t.out, "%d %s\n", n, strings.TrimPrefix(unix.SignalName(n), "SIG"))
		}
		return 0
	}
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		name := args[0][1:]
		args = args[1:]
		if name == "s" && len(args) > 0 {
			name, args = args[0], args[1:]
		}
		if n, err := strconv.Atoi(name); err == nil {
			sig = syscall.Signal(n)
		} else if sig = unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")); sig == 0 {
			return t.failf(2, "unknown signal %s", name)
		}
	}
	if len(args) == 0 {
		return t.failf(2, "kill [-signal] pid…")
	}
	return t.each(args, func(a string) error {
		pid, err := strconv.Atoi(a)
		if err != nil {
			return fmt.Errorf("%q is no process id", a)
		}
		if err := syscall.Kill(pid, sig); err != nil {
			return fmt.Errorf("%d: %w", pid, err)
		}
		return nil
	})
}

var errNoTerminal = errors.New("the input is no terminal")

// stty prints the size of the terminal, as "stty size" does, or in words.
func stty(t *tool) int {
	f, ok := t.in.(*os.File)
	if !ok {
		return t.fail1(errNoTerminal)
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return t.fail1(errNoTerminal)
	}
	if len(t.args) > 0 && t.args[0] == "size" {
		fmt.Fprintf(t.out, "%d %d\n", height, width)
		return 0
	}
	fmt.Fprintf(t.out, "rows %d; columns %d\n", height, width)
	return 0
}

func tty(t *tool) int {
	f, ok := t.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		fmt.Fprintln(t.out, "not a tty")
		return 1
	}
	name, err := os.Readlink("/proc/self/fd/0")
	if err != nil {
		name = "/dev/tty"
	}
	fmt.Fprintln(t.out, name)
	return 0
}
