package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
)

// server is a program of Debian that is measured in a Pod on each driver and as a process of the host.
type server struct {
	name     string // of its image, too
	port     int32
	data     string                                          // where the Pod has a volume; none if empty
	onHost   func(dir string, port int32) (*exec.Cmd, error) // the process of the host, ready to start
	prepare  func(to target) []string                        // a command that comes before the load; none if nil
	measured []figure
}

// figure is a load on a server and where its result is in what the load prints.
type figure struct {
	what, unit string
	number     *regexp.Regexp
	load       func(o options, to target) []string
}

// target is where a load goes.
type target struct {
	host string
	port int32
}

func (t target) String() string { return net.JoinHostPort(t.host, t.portString()) }

func (t target) portString() string { return strconv.Itoa(int(t.port)) }

func nginx() server {
	return server{name: "nginx", port: 80, onHost: hostNginx, measured: []figure{{
		what: fmt.Sprintf("nginx under wrk, %d connections", connections), unit: "requests/s", number: regexp.MustCompile(`Requests/sec: +([\d.]+)`),
		load: func(o options, to target) []string {
			return []string{"wrk", "-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", o.rounds(5, 1)), "http://" + to.String() + "/"}
		},
	}}}
}

// hostNginx has the settings of Debian's that matter, on another port and with its files in dir.
func hostNginx(dir string, port int32) (*exec.Cmd, error) {
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf("daemon off; error_log stderr; pid %[1]s/pid; worker_processes auto; events { worker_connections 768; }\n"+
		"http { sendfile on; tcp_nopush on; gzip on; include /etc/nginx/mime.types; access_log %[1]s/access.log; "+
		"server { listen %[2]d; root /var/www/html; index index.nginx-debian.html; } }\n", dir, port)
	return exec.Command("/usr/sbin/nginx", "-c", config), os.WriteFile(config, []byte(text), 0o644)
}

func redis() server {
	benchmark := func(test string) figure {
		return figure{what: fmt.Sprintf("redis under redis-benchmark, %s, %d connections", test, connections), unit: test + "/s",
			number: regexp.MustCompile(`"` + test + `","([\d.]+)"`),
			load: func(o options, to target) []string {
				return []string{"redis-benchmark", "-h", to.host, "-p", to.portString(), "-t", test, "-c", strconv.Itoa(connections),
					"-n", strconv.Itoa(o.rounds(20000, 2000)), "--csv"}
			}}
	}
	return server{name: "redis", port: 6379, measured: []figure{benchmark("SET"), benchmark("GET")}, onHost: func(dir string, port int32) (*exec.Cmd, error) {
		return exec.Command("redis-server", "--dir", dir, "--port", strconv.Itoa(int(port)), "--protected-mode", "no"), nil
	}}
}

// postgresPrograms is where Debian has those of PostgreSQL.
const postgresPrograms = "/usr/lib/postgresql/15/bin/"

func postgres() server {
	pgbench := func(to target, args ...string) []string {
		return append([]string{postgresPrograms + "pgbench", "-h", to.host, "-p", to.portString(), "-U", "postgres", "postgres"}, args...)
	}
	return server{name: "postgres", port: 5432, data: "/var/lib/postgresql", onHost: hostPostgres,
		prepare: func(to target) []string { return pgbench(to, "-i", "-q") },
		measured: []figure{{what: fmt.Sprintf("PostgreSQL under pgbench, each commit synced, %d connections", connections), unit: "transactions/s",
			number: regexp.MustCompile(`(?m)^tps = ([\d.]+)`),
			load: func(o options, to target) []string {
				return pgbench(to, "-c", strconv.Itoa(connections), "-T", strconv.Itoa(o.rounds(8, 2)))
			}}}}
}

// hostPostgres makes the data of a PostgreSQL, which does not run as root.
func hostPostgres(dir string, port int32) (*exec.Cmd, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(postgresPrograms+"initdb", "-D", data, "--auth=trust")
	initdb.Dir, initdb.SysProcAttr = dir, as
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	rules := "host all all 0.0.0.0/0 trust\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(rules), 0o644); err != nil {
		return nil, err
	}
	c := exec.Command(postgresPrograms+"postgres", "-D", data, "-k", dir, "-p", strconv.Itoa(int(port)), "-c", "listen_addresses=*")
	c.Dir, c.SysProcAttr = dir, as
	return c, nil
}
