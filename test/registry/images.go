package main

import "path/filepath"

// images are what the registry serves, by repository: programs of Debian's packages as they lie on this machine, those of this tree that are
// given, as test/<name>, and with a demo program the three that the suite of virtual-kubelet has its Pods run.
func images(demo string, given []string) map[string]program {
	const pg = "/usr/lib/postgresql/15"
	all := map[string]program{
		"debian/nginx": {paths: []string{"/usr/sbin/nginx", "/etc/nginx/nginx.conf", "/etc/nginx/mime.types", "/etc/nginx/sites-enabled/default", "/var/www/html"},
			dirs: []string{"/var/log/nginx", "/var/lib/nginx", "/run", "/tmp"}, cmd: []string{"/usr/sbin/nginx", "-g", "daemon off; error_log stderr;"}},
		"debian/busybox": {paths: []string{"/bin/busybox"}, entry: []string{"/bin/busybox"}, cmd: []string{"sleep", "3600"}},
		"debian/wrk":     {paths: []string{"/usr/bin/wrk", "/etc/services"}, dirs: []string{"/tmp"}, cmd: []string{"/usr/bin/wrk"}},
		"debian/redis": {paths: []string{"/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/bin/redis-benchmark", "/bin/sh", "/etc/services"},
			dirs: []string{"/data", "/tmp"}, user: "redis",
			cmd: []string{"/usr/bin/redis-server", "--dir", "/data", "--protected-mode", "no"}},
		// initdb runs postgres through a shell and copies from share; plpgsql and dict_snowball are in every new database. fsGroup opens the data
		// to the group each time that the volume is mounted, which postgres does not accept: hence chmod, as in Docker's own image of it.
		"debian/postgres": {paths: []string{pg + "/bin/initdb", pg + "/bin/postgres", pg + "/bin/psql", pg + "/bin/pgbench", pg + "/bin/pg_isready", pg + "/bin/pg_controldata",
			pg + "/lib/plpgsql.so", pg + "/lib/dict_snowball.so", pg + "/lib/amcheck.so", "/usr/share/postgresql/15", "/usr/lib/locale/C.utf8", "/usr/share/zoneinfo/Etc",
			"/bin/sh", "/bin/chmod", "/etc/services"},
			dirs: []string{"/var/lib/postgresql", "/var/run/postgresql", "/tmp"}, user: "postgres",
			env: []string{"PATH=" + pg + "/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PGDATA=/var/lib/postgresql/data", "PGUSER=postgres"},
			cmd: []string{"/bin/sh", "-c", `test -s "$PGDATA/PG_VERSION" || { initdb --auth-local=peer --auth-host=trust && ` +
				`echo "host all all all trust" >> "$PGDATA/pg_hba.conf"; } && chmod 0700 "$PGDATA" && exec postgres -c listen_addresses='*'`}},
	}
	for _, path := range given {
		all["test/"+filepath.Base(path)] = program{paths: []string{path}, entry: []string{path}}
	}
	if demo != "" {
		for name, port := range map[string]string{"foo": "8081", "bar": "8082", "baz": "8083"} { // side by side in one Pod
			all["library/"+name] = program{paths: []string{demo}, cmd: []string{demo, "serve"}, env: []string{"PORT=" + port}, tag: "latest"}
		}
	}
	return all
}
