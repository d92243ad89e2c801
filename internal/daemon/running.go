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
// sudo, for the one who called it.
func (p *platform) writeKubeconfigs(kubeconfig []byte) error {
	p.cluster = filepath.Join(p.Config.Data, "clusters", p.Config.Cluster, "kubeconfig")
	if err := writeFile(p.cluster, kubeconfig, 0o600); err != nil {
		return err
	}
	if p.MergeKubeconfig == nil {
		return nil
	}
	var errs []error
	for _, k := range kubeconfigFiles() {
		errs = append(errs, p.MergeKubeconfig(k.path, kubeconfig, k.uid, k.gid))
	}
	return errors.Join(errs...)
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
	} else if home, err := os.UserHomeDir(); err == nil {
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
