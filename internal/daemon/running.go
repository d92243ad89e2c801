package daemon

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gondola/client"

	"gondola/internal/durable"
)

// Connect returns a client of the platform of a configuration, which need not run at the moment.
func Connect(c Config) (*client.Client, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	local := client.Running{API: "http://" + c.API, TokenFile: filepath.Join(c.Data, "token")}
	if known, err := client.Local(c.Data); err == nil {
		local = known
	}
	token, err := local.Token()
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{URL: local.API, Token: token})
}

// writeKubeconfigs puts the administrator's kubeconfig into the data directory and merges it where kubectl looks: for this user and, under
// sudo, for the one who called it. A file of a user that cannot be changed is told of and holds up nothing.
func (p *platform) writeKubeconfigs(kubeconfig []byte) error {
	p.cluster = filepath.Join(p.Config.Data, "clusters", p.Config.Cluster, "kubeconfig")
	if err := durable.WriteFile(p.cluster, kubeconfig, 0o600); err != nil {
		return err
	}
	if p.MergeKubeconfig == nil {
		return nil
	}
	for _, k := range kubeconfigFiles() {
		current, err := p.MergeKubeconfig(k.path, kubeconfig, k.uid, k.gid)
		if err != nil {
			p.Say("no context for kubectl: %v", err)
			continue
		}
		p.contexts = append(p.contexts, current)
	}
	return nil
}

// renewed brings a newer kubeconfig to those who have one.
func (p *platform) renewed() {
	if p.kubeconfig == nil {
		return
	}
	b, err := p.kubeconfig()
	if err == nil {
		err = durable.WriteFile(p.cluster, b, 0o600)
	}
	if err == nil && p.RenewKubeconfig != nil {
		for _, k := range kubeconfigFiles() {
			err = errors.Join(err, p.RenewKubeconfig(k.path, b))
		}
	}
	if err != nil {
		p.log.Error("kubeconfig could not be renewed", "error", err)
	}
}

// kubeconfigFile is where a user's kubectl looks. uid and gid are whose it becomes if it is new; -1: whose the directory is.
type kubeconfigFile struct {
	path     string
	uid, gid int
}

// kubeconfigFiles are the kubeconfigs to merge into: the first of $KUBECONFIG, or ~/.kube/config, and that of the user behind sudo, to whom all belongs
// that is new in his home.
func kubeconfigFiles() []kubeconfigFile {
	var paths []string
	if env := strings.FieldsFunc(os.Getenv("KUBECONFIG"), func(r rune) bool { return r == os.PathListSeparator }); len(env) > 0 {
		paths = append(paths, env[0])
	} else if home := homeDir(); home != "" {
		paths = append(paths, filepath.Join(home, ".kube", "config"))
	}
	uid, gid, home := -1, -1, ""
	if name := os.Getenv("SUDO_USER"); name != "" && name != "root" {
		if u, err := user.Lookup(name); err == nil {
			paths = append(paths, filepath.Join(u.HomeDir, ".kube", "config"))
			uid, gid, home = id(u.Uid), id(u.Gid), filepath.Clean(u.HomeDir)
		}
	}
	var out []kubeconfigFile
	for _, path := range paths {
		k := kubeconfigFile{filepath.Clean(path), -1, -1}
		if home != "" && strings.HasPrefix(k.path, home+"/") {
			k.uid, k.gid = uid, gid
		}
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// id is a user's or group's as the system calls have it; -1 if it is no number.
func id(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

// homeDir is that of this user. systemd gives a service of the host no HOME.
func homeDir() string {
	if home, err := os.UserHomeDir(); err == nil {
		return home
	}
	u, err := user.LookupId(strconv.Itoa(os.Geteuid()))
	if err != nil {
		return ""
	}
	return u.HomeDir
}
