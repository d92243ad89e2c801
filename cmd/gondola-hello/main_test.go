package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"encoding/pem"

	"github.com/creack/pty"
)

// TestMain makes the test binary behave as the program where it is called under one of its names.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == "hello" || tools()[name] != nil {
		os.Exit(run(os.Args))
	}
	os.Exit(m.Run())
}

// bin makes a directory with the program under all its names, as /bin of the demo image, and returns it.
func bin(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name := range tools() {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(self, filepath.Join(dir, "hello")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// call runs a tool in dir and returns what it wrote and its exit code.
func call(t *testing.T, bin, dir, stdin, name string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, []string{"PATH=" + bin, "HOME=/root", "GORACE=" + os.Getenv("GORACE")}, strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func TestTools_DoWhatTheirNamesakesDo(t *testing.T) {
	bin, dir := bin(t), t.TempDir()
	for _, row := range []struct {
		name, script, want string
		code               int
	}{
		{"variables and loops", `for i in 1 2 3; do x=$x$i; done; echo $x`, "123\n", 0},
		{"exit code", `exit 7`, "", 7},
		{"code of the last command", `true; false`, "", 1},
		{"what does not exist", `no-such-thing 2>/dev/null`, "", 127},
		{"pipe", `seq 1 5 | grep -v 3 | wc -l`, "4\n", 0},
		{"redirect, append, cat", `echo a > f; echo b >> f; cat f; cat < f | head -n 1`, "a\nb\na\n", 0},
		{"here document", "cat <<E\nx$((1+1))\nE", "x2\n", 0},
		{"substitution", `echo "$(printf '%03d' 7)-$(basename /a/b.c .c)-$(dirname /a/b)"`, "007-b-/a\n", 0},
		{"test", `test -f f && [ ! -d f ] && echo yes`, "yes\n", 0},
		{"test as a program", `env test -d f`, "", 1},
		{"bracket as a program", `env [ "a b" = "a b" ] && echo same`, "same\n", 0},
		{"files", `mkdir -p d/e; touch d/e/x; cp -r d d2; mv d2/e/x d2/y; ls d2; rm -rf d d2; ls -d d`, "e\ny\nls: lstat d: no such file or directory\n", 1},
		{"rm without -r", `mkdir k; rm k`, "rm: k is a directory: use -r\n", 1},
		{"links", `ln -s f l; readlink l; ls -l l | grep -o 'l -> f'`, "f\nl -> f\n", 0},
		{"modes", `touch m; chmod 640 m; chmod u+x m; ls -l m | cut -d ' ' -f 1`, "-rwxr-----\n", 0},
		{"head and tail", `seq 10 | tail -n 3 | head -n 1; seq 3 | tail -1; printf abc | tail -c 2`, "8\n3\nbc", 0},
		{"sort and uniq", `printf 'b\na\nb\n' | sort | uniq -c; printf '10\n9\n' | sort -n | tr '\n' ,`, "      1 a\n      2 b\n9,10,", 0},
		{"tr", `echo hello | tr a-y b-z; echo a-b | tr -d -`, "ifmmp\nab\n", 0},
		{"grep says whether", `echo a | grep -q b || echo none`, "none\n", 0},
		{"find", `mkdir -p q/r; touch q/r/s.txt; find q -name '*.txt' -type f`, "q/r/s.txt\n", 0},
		{"xargs", `printf 'a b c' | xargs -n 2 echo x`, "x a b\nx c\n", 0},
		{"env", `env -i A=1 env; B=2 printenv B`, "A=1\n2\n", 0},
		{"tee", `echo t | tee t1 | cat; cat t1`, "t\nt\n", 0},
		{"sum", `printf abc | sha256sum`, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n", 0},
		{"date", `date -u +%Y | grep -c '^20[0-9][0-9]$'`, "1\n", 0},
		{"kill and wait", `kill -l | grep -c TERM; sleep 0.01 & wait; echo done`, "1\ndone\n", 0},
		{"unknown option", `ls --frob 2>&1`, "ls: unknown option --frob\n", 2},
		{"trap", `trap 'echo bye' EXIT; echo hi`, "hi\nbye\n", 0},
		{"syntax error", `echo before; if`, "sh: sh:1:14: `if` must be followed by a statement list\n", 2},
		{"arguments", `sh -c 'echo $0 $1 $#' name one two`, "name one 2\n", 0},
		{"script file", `printf 'echo $1\nexit 3\n' > s.sh; sh s.sh arg`, "arg\n", 3},
		{"sh -e", `sh -ec 'false; echo not here'`, "", 1},
		{"tools without PATH", `PATH=; echo x | wc -l`, "1\n", 0},
		{"not a terminal", `tty; stty size`, "not a tty\nstty: the input is no terminal\n", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, code := call(t, bin, dir, "", "sh", "-c", row.script)
			if out != row.want || code != row.code {
				t.Errorf("%s\ngave %q, code %d\nwant %q, code %d", row.script, out, code, row.want, row.code)
			}
		})
	}
	if out, code := call(t, bin, dir, "echo from input\nexit 4\n", "hello", "sh"); out != "from input\n" || code != 4 {
		t.Errorf("script on the input: %q, %d", out, code)
	}
	if out, _ := call(t, bin, dir, "", "id"); !strings.HasPrefix(out, "uid=") {
		t.Errorf("id: %q", out)
	}
	if out, _ := call(t, bin, dir, "", "ps"); !strings.Contains(out, "PID") || !strings.Contains(out, bin+"/ps") {
		t.Errorf("ps: %q", out)
	}
}

func TestTar_CarriesWhatKubectlCpSends(t *testing.T) {
	bin, src, dst := bin(t), t.TempDir(), t.TempDir()
	if err := os.MkdirAll(src+"/d/sub", 0o750); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"d/a": "A", "d/sub/b": strings.Repeat("b", 100_000)} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(data), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("a", src+"/d/link"), os.Link(src+"/d/a", src+"/d/hard")); err != nil {
		t.Fatal(err)
	}
	// As kubectl cp calls it: tar cf - <absolute path> on one side, tar xmf - -C <dir> on the other.
	packed, code := call(t, bin, "/", "", "tar", "cf", "-", src+"/d")
	if code != 0 {
		t.Fatalf("tar cf: %q", packed)
	}
	if out, code := call(t, bin, "/", packed, "tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-", "-C", dst); code != 0 || out != "" {
		t.Fatalf("tar xmf: %q, %d", out, code)
	}
	got := filepath.Join(dst, src, "d")
	if b, err := os.ReadFile(got + "/sub/b"); err != nil || len(b) != 100_000 {
		t.Errorf("sub/b: %d bytes, %v", len(b), err)
	}
	if to, err := os.Readlink(got + "/link"); err != nil || to != "a" {
		t.Errorf("link: %q, %v", to, err)
	}
	a, err1 := os.Stat(got + "/a")
	hard, err2 := os.Stat(got + "/hard")
	if err1 != nil || err2 != nil || !os.SameFile(a, hard) || time.Since(a.ModTime()) > time.Minute {
		t.Errorf("a and hard: %v %v %v %v", a, hard, err1, err2)
	}
	// GNU tar reads what it writes, and the other way round.
	if gnu, err := exec.LookPath("tar"); err == nil {
		cmd := exec.Command(gnu, "tf", "-")
		cmd.Stdin = strings.NewReader(packed)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "d/sub/b") {
			t.Errorf("GNU tar: %s, %v", out, err)
		}
		cmd = exec.Command(gnu, "czf", "-", "-C", src, "d")
		theirs, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if out, code := call(t, bin, dst, string(theirs), "tar", "xzvf", "-", "--strip-components=1", "d/sub"); code != 0 || !strings.Contains(out, "d/sub/b") {
			t.Errorf("unpack GNU's: %q, %d", out, code)
		}
		if _, err := os.Stat(dst + "/sub/b"); err != nil {
			t.Error(err)
		}
	}
	if out, code := call(t, bin, src, "", "tar", "cf", "-", "missing"); code == 0 || !strings.Contains(out, "missing") {
		t.Errorf("tar of what is not there: %q, %d", out, code)
	}
}

// start runs the web server on a free port and returns its URL.
func start(t *testing.T, bin string, env ...string) (string, *exec.Cmd, *bytes.Buffer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := exec.Command(filepath.Join(bin, "hello"))
	var log bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(env, "PORT="+port), &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	url := "http://127.0.0.1:" + port
	for deadline := time.Now().Add(5 * time.Second); ; {
		res, err := http.Get(url + "/healthz")
		if err == nil {
			res.Body.Close()
			return url, cmd, &log
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not answer: %v\n%s", err, log.String())
		}
		<-time.After(10 * time.Millisecond)
	}
}

func get(t *testing.T, url, accept string) (string, *http.Response) {
	t.Helper()
	req, _ := http.NewRequest(http.MethodGet, url, nil)
	req.Header.Set("Accept", accept)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), res
}

func TestServe_ShowsItsMachineInEachReadersForm(t *testing.T) {
	bin := bin(t)
	url, cmd, log := start(t, bin, "FLY_MACHINE_ID=abc123", "FLY_REGION=fra", "POD_NAME=hello-1", "PEERS=localhost")
	text, _ := get(t, url+"/?q=1", "*/*")
	for _, want := range []string{"Hello from ", "machine    abc123", "region     fra", "pod        hello-1", "peers localhost", "127.0.0.1", "GET /?q=1 HTTP/1.1", "User-Agent: "} {
		if !strings.Contains(text, want) {
			t.Errorf("text lacks %q:\n%s", want, text)
		}
	}
	if html, res := get(t, url+"/", "text/html"); !strings.Contains(html, "<td>abc123</td>") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Errorf("page:\n%s", html)
	}
	var self Self
	if body, _ := get(t, url+"/", "application/json"); json.Unmarshal([]byte(body), &self) != nil || self.Region != "fra" {
		t.Errorf("JSON: %s", body)
	}
	if _, res := get(t, url+"/none", "*/*"); res.StatusCode != http.StatusNotFound {
		t.Errorf("/none: %s", res.Status)
	}
	if out, code := call(t, bin, "/", "", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url+"/none"); out != "404" || code != 0 {
		t.Errorf("curl: %q, %d", out, code)
	}
	if out, code := call(t, bin, "/", "", "wget", "-q", "-O", "-", url+"/healthz"); out != "ok\n" || code != 0 {
		t.Errorf("wget: %q, %d", out, code)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	for _, want := range []string{"listening on ", "GET /?q=1 200 ", "told to stop", "stopped"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log)
		}
	}
}

func TestServe_ExitsWithTheCodeAskedFor(t *testing.T) {
	url, cmd, log := start(t, bin(t))
	if body, _ := get(t, url+"/exit?code=42", "*/*"); body != "exiting with code 42\n" {
		t.Errorf("answer: %q", body)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 42 {
		t.Errorf("exit code %d\n%s", cmd.ProcessState.ExitCode(), log)
	}
}

func TestShell_OnATerminal(t *testing.T) {
	bin := bin(t)
	cmd := exec.Command(bin + "/sh")
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + bin, "GORACE=" + os.Getenv("GORACE")}
	term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	seen := ""
	expect := func(want string) {
		t.Helper()
		stuck := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() }) // a terminal knows no deadlines
		defer stuck.Stop()
		buf := make([]byte, 4096)
		for !strings.Contains(seen, want) {
			n, err := term.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %q: %v, saw %q", want, err, seen)
			}
			seen += string(buf[:n])
		}
		seen = seen[strings.Index(seen, want)+len(want):]
	}
	send := func(s string) {
		t.Helper()
		if _, err := io.WriteString(term, s); err != nil {
			t.Fatal(err)
		}
	}
	expect("/ # ")
	send("stty size\n")
	expect("40 120\r\n/ # ")
	send("x=5\n")
	expect("/ # ")
	send("if true\n")
	expect("> ")
	send("then echo got$x; fi\n")
	expect("got5\r\n/ # ")
	send("echo )\n")
	expect("sh: ")
	expect("/ # ")
	send("sleep 100; echo woken\n")
	expect("\r\n")
	<-time.After(300 * time.Millisecond) // for sleep to run; Ctrl-C before it has begun is taken just as well
	send("\x03")
	expect("/ # ")
	send("echo code $?\n")
	expect("code 130")
	expect("/ # ")
	send("cd /tmp\n")
	expect("/tmp # ")
	send("exit 9\n")
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("exit code %d, saw %q", cmd.ProcessState.ExitCode(), seen)
	}
}

func TestNC_UnixSocketsCarryBothWays(t *testing.T) {
	bin, dir := bin(t), t.TempDir()
	script := `nc -lU s > got < reply & ` + // listens in the background
		`while [ ! -S s ]; do sleep 0.01; done; echo question | nc -U s; wait; cat got`
	if err := os.WriteFile(dir+"/reply", []byte("answer\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := call(t, bin, dir, "", "sh", "-c", script); out != "answer\nquestion\n" || code != 0 {
		t.Errorf("nc: %q, %d", out, code)
	}
	if _, code := call(t, bin, dir, "", "nc", "-z", "-w", "1", "127.0.0.1", "1"); code != 1 {
		t.Errorf("nc -z of a closed port: %d", code)
	}
}

func TestPods_ReadsTheClusterWithTheServiceAccount(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"kind":"Status","message":"pods is forbidden"}`)
			return
		}
		if r.URL.Path != "/api/v1/namespaces/shop/pods" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"items":[{"metadata":{"name":"web-1"},"spec":{"nodeName":"fra"},"status":{"phase":"Running","podIP":"10.64.16.2"}}]}`)
	}))
	defer srv.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, data := range map[string]string{"token": "secret\n", "namespace": "shop", "ca.crt": string(ca)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(srv.URL, "https://"))
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	c, err := inCluster(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct{ Status struct{ PodIP string } }
	}
	if err := c.get("/api/v1/namespaces/"+c.namespace+"/pods", &list); err != nil || len(list.Items) != 1 || list.Items[0].Status.PodIP != "10.64.16.2" {
		t.Errorf("get: %+v, %v", list, err)
	}
	c.token = "wrong"
	if err := c.get("/api/v1/namespaces/shop/pods", &list); err == nil || !strings.Contains(err.Error(), "pods is forbidden") {
		t.Errorf("with a wrong token: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := inCluster(dir); err == nil {
		t.Error("a client outside a cluster")
	}
}

// The demo image links these names; its list lives in internal/image, which this program cannot import.
func TestTools_AreThoseThatTheDemoImageLinks(t *testing.T) {
	src, err := os.ReadFile("../../internal/image/hello.go")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(src), "func HelloTools() []string {")
	list, _, _ = strings.Cut(list, "\n}\n")
	linked := map[string]bool{}
	for i, name := range strings.Split(list, `"`) {
		if i%2 == 1 {
			linked[name] = true
		}
	}
	for name := range tools() {
		if !linked[name] && name != "serve" {
			t.Errorf("%s is not linked in the demo image", name)
		}
	}
	for name := range linked {
		if tools()[name] == nil {
			t.Errorf("the demo image links %s, which is no tool", name)
		}
	}
}
