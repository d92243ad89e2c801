// Command gondola-hello is the program of the demo image gondola.local/hello: one static binary that is a small web server and, by the name
// it is called under or its first argument, a shell and the tools that `kubectl exec` and `kubectl cp` need.
//
//	/hello                 the web server, on :8080 or :$PORT
//	/hello sh -c 'ls -l'   a tool
//	/bin/ls -l             the same, through a link
//
// The tools do what their namesakes do in everyday use, and refuse options that they do not know.
package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tool is one call of a tool.
type tool struct {
	name string
	args []string // without the name
	in   io.Reader
	out  *bufio.Writer // flushed when the tool returns
	err  io.Writer
}

// tools returns what this program can be called as. It is a function, since some tools call others.
func tools() map[string]func(*tool) int {
	return map[string]func(*tool) int{
		"[": shellBuiltin, "basename": basename, "cat": cat, "chmod": chmod, "chown": chown, "clear": clearScreen, "cp": cp, "curl": curl,
		"cut": cut, "date": date, "df": df, "dirname": dirname, "du": du, "echo": echo, "env": env, "false": fail, "find": find, "grep": grep,
		"head": head, "host": nslookup, "hostname": hostname, "id": id, "ip": ip, "kill": kill, "ln": ln, "ls": ls, "mkdir": mkdir, "mv": mv,
		"nc": nc, "nslookup": nslookup, "pods": pods, "printenv": printenv, "printf": shellBuiltin, "ps": ps, "pwd": pwd,
		"readlink": readlink, "rm": rm, "rmdir": rmdir, "seq": seq, "serve": serve, "sh": sh, "sha256sum": sha256sum, "sleep": sleep,
		"sort": sortLines, "stat": stat, "stty": stty, "sync": syncDisks, "tail": tail, "tar": tarTool, "tee": tee, "test": shellBuiltin,
		"touch": touch, "tr": tr, "true": succeed, "tty": tty, "uname": uname, "uniq": uniq, "wc": wc, "wget": wget, "which": which,
		"whoami": whoami, "xargs": xargs,
	}
}

func main() { os.Exit(run(os.Args)) }

// run finds what args mean and returns the exit code.
func run(args []string) int {
	all := tools()
	name := strings.TrimPrefix(filepath.Base(args[0]), "-") // a login shell is "-sh"
	args = args[1:]
	f, ok := all[name]
	if !ok && len(args) > 0 {
		if f, ok = all[args[0]]; ok {
			name, args = args[0], args[1:]
		}
	}
	if !ok {
		if len(args) > 0 {
			fmt.Fprintf(os.Stderr, "%s: there is no tool %q; there are: %s\n", name, args[0], strings.Join(slices.Sorted(maps.Keys(all)), " "))
			return 2
		}
		name, f = "hello", serve
	}
	t := &tool{name: name, args: args, in: os.Stdin, out: bufio.NewWriter(os.Stdout), err: os.Stderr}
	code := f(t)
	if err := t.out.Flush(); err != nil && code == 0 {
		code = 1 // as when the reader of a pipe has gone
	}
	return code
}

// fail1 reports an error and returns 1.
func (t *tool) fail1(err error) int { return t.failf(1, "%v", err) }

func (t *tool) failf(code int, format string, args ...any) int {
	t.out.Flush()
	fmt.Fprintf(t.err, t.name+": "+format+"\n", args...)
	return code
}

// each runs f for every name, goes on after errors and returns 1 if there was one.
func (t *tool) each(names []string, f func(string) error) (code int) {
	for _, n := range names {
		if err := f(n); err != nil {
			code = t.fail1(err)
		}
	}
	return code
}

// inputs runs f for every file named, or for the standard input where there is none or "-".
func (t *tool) inputs(names []string, f func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	return t.each(names, func(n string) error {
		if n == "-" {
			return f(n, t.in)
		}
		file, err := os.Open(n)
		if err != nil {
			return err
		}
		defer file.Close()
		return f(n, file)
	})
}

// options are the options of a call: "l" → "" for a switch, "n" → "5" for one with a value, "name" for --name.
type options map[string]string

func (o options) has(name string) bool { _, ok := o[name]; return ok }

// options reads the options before and between the operands. switches and valued list the short ones; long ones, given with their dashes
// left out, take a value when they end in "=".
func (t *tool) options(switches, valued string, long ...string) (options, []string, error) {
	o := options{}
	var operands []string
	for i := 0; i < len(t.args); i++ {
		arg := t.args[i]
		switch {
		case arg == "--":
			return o, append(operands, t.args[i+1:]...), nil
		case strings.HasPrefix(arg, "--"):
			name, value, _ := strings.Cut(arg[2:], "=")
			switch {
			case slices.Contains(long, name):
			case !slices.Contains(long, name+"="):
				return nil, nil, fmt.Errorf("unknown option %s", arg)
			case !strings.Contains(arg, "="):
				if i++; i == len(t.args) {
					return nil, nil, fmt.Errorf("option %s needs a value", arg)
				}
				value = t.args[i]
			}
			o[name] = value
		case len(arg) > 1 && arg[0] == '-':
			for j := 1; j < len(arg); j++ {
				c := arg[j : j+1]
				if strings.Contains(switches, c) {
					o[c] = ""
					continue
				}
				if !strings.Contains(valued, c) {
					return nil, nil, fmt.Errorf("unknown option -%s", c)
				}
				value := arg[j+1:]
				if value == "" {
					if i++; i == len(t.args) {
						return nil, nil, fmt.Errorf("option -%s needs a value", c)
					}
					value = t.args[i]
				}
				o[c] = value
				break
			}
		default:
			operands = append(operands, arg)
		}
	}
	return o, operands, nil
}
