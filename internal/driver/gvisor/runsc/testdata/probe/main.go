// Probe is the program that the tests of runsc run in containers.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	args := os.Args[2:]
	switch os.Args[1] {
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "sleep":
		n, _ := strconv.Atoi(args[0])
		time.Sleep(time.Duration(n) * time.Second)
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "write":
		check(os.WriteFile(args[0], []byte(args[1]), 0o644))
	case "symlink":
		check(os.Symlink(args[0], args[1]))
	case "read":
		b, err := os.ReadFile(args[0])
		check(err)
		fmt.Println(string(b))
	case "cgroup": // files of it, a line each
		for _, name := range args {
			b, err := os.ReadFile("/sys/fs/cgroup/" + name)
			check(err)
			fmt.Print(string(b))
		}
	case "fstype":
		var st syscall.Statfs_t
		check(syscall.Statfs(args[0], &st))
		fmt.Printf("%#x\n", st.Type)
	case "ls":
		entries, err := os.ReadDir(args[0])
		check(err)
		for _, e := range entries {
			fmt.Println(e.Name())
		}
	case "serve":
		l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
		check(err)
		fmt.Println("ready")
		check(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "probe") })))
	case "get":
		resp, err := http.Get(args[0])
		check(err)
		io.Copy(os.Stdout, resp.Body)
	case "unix-serve":
		l, err := net.Listen("unix", args[0])
		check(err)
		c, err := l.Accept()
		check(err)
		fmt.Fprint(c, "over unix")
		c.Close()
	case "unix-get":
		var c net.Conn
		err := retry(func() (err error) { c, err = net.Dial("unix", args[0]); return err })
		check(err)
		io.Copy(os.Stdout, c)
	case "fifo-write":
		check(syscall.Mkfifo(args[0], 0o666))
		f, err := os.OpenFile(args[0], os.O_WRONLY, 0)
		check(err)
		fmt.Fprint(f, "over fifo")
	case "fifo-read":
		var b []byte
		check(retry(func() (err error) { b, err = os.ReadFile(args[0]); return err }))
		fmt.Println(string(b))
	case "caps":
		b, err := os.ReadFile("/proc/self/status")
		check(err)
		for _, l := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(l, "Cap") || strings.HasPrefix(l, "Uid") || strings.HasPrefix(l, "Groups") || strings.HasPrefix(l, "NoNew") {
				fmt.Println(l)
			}
		}
	case "eat": // megabytes
		n, _ := strconv.Atoi(args[0])
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("eaten")
		time.Sleep(time.Hour)
	case "spin":
		for {
		}
	case "gomaxprocs":
		fmt.Println(runtime.GOMAXPROCS(0), runtime.NumCPU())
	case "burn": // for a second
		end := time.Now().Add(time.Second)
		for time.Now().Before(end) {
		}
	case "peer": // connects to itself through a unix socket; prints who the peer is, and sends a file
		l, err := net.Listen("unix", args[0])
		check(err)
		c, err := net.Dial("unix", args[0])
		check(err)
		a, err := l.Accept()
		check(err)
		f, err := a.(*net.UnixConn).File()
		check(err)
		cred, err := syscall.GetsockoptUcred(int(f.Fd()), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		check(err)
		r, w, err := os.Pipe()
		check(err)
		_, _, err = c.(*net.UnixConn).WriteMsgUnix([]byte("x"), syscall.UnixRights(int(w.Fd())), nil)
		check(err)
		b, oob := make([]byte, 1), make([]byte, 64)
		_, n, _, _, err := a.(*net.UnixConn).ReadMsgUnix(b, oob)
		check(err)
		msgs, err := syscall.ParseSocketControlMessage(oob[:n])
		check(err)
		if len(msgs) == 0 {
			fmt.Println("no file came")
			return
		}
		got, err := syscall.ParseUnixRights(&msgs[0])
		check(err)
		w.Close()
		syscall.Write(got[0], []byte("through"))
		syscall.Close(got[0])
		rest, _ := io.ReadAll(r)
		fmt.Println(cred.Uid, cred.Pid == int32(os.Getpid()), string(rest))
	case "tty":
		tty()
	default:
		fmt.Println("unknown", os.Args)
		os.Exit(2)
	}
}

func tty() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGINT)
	_, err := size()
	fmt.Printf("tty %v\n", err == nil)
	lines := make(chan string)
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			lines <- in.Text()
		}
	}()
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGINT {
				fmt.Println("interrupt")
				os.Exit(5)
			}
			sz, _ := size()
			fmt.Println("winch " + sz)
		case l := <-lines:
			fmt.Println("line " + l)
		}
	}
}

func size() (string, error) {
	var w [4]uint16
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&w)))
	if errno != 0 {
		return "", errno
	}
	return fmt.Sprintf("%dx%d", w[0], w[1]), nil
}

func retry(f func() error) error {
	var err error
	for range 20 {
		if err = f(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}
