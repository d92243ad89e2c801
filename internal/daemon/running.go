package daemon

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"gondola/client"
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
	if err := writeFile(p.cluster, kubeconfig, 0o600); err != nil {
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
		err = writeFile(p.cluster, b, 0o600)
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

type kubeconfigFile struct {
	path     string
	uid, gid int
}

// kubeconfigFiles are the kubeconfigs to merge into: the first of $KUBECONFIG, or ~/.kube/config, and that of the user behind sudo.
func kubeconfigFiles() []kubeconfigFile {
	var out []kubeconfigFile
	if env := os.Getenv("KUBECONFIG"); env != "" {
		out = append(out, kubeconfigFile{strings.Split(env, string(os.PathListSeparator))[0], os.Getuid(), os.Getgid()})
	} else if home := homeDir(); home != "" {
		out = append(out, kubeconfigFile{filepath.Join(home, ".kube", "config"), os.Getuid(), os.Getgid()})
	}
	if name := os.Getenv("SUDO_USER"); name != "" && name != "root" {
		if u, err := user.Lookup(name); err == nil {
			uid, err1 := strconv.Atoi(u.Uid)
			gid, err2 := strconv.Atoi(u.Gid)
			if err1 == nil && err2 == nil {
				out = append(out, kubeconfigFile{filepath.Join(u.HomeDir, ".kube", "config"), uid, gid})
			}
		}
	}
	return out
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
