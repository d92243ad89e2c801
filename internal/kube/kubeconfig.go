package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// contextName is the name of a cluster's context, cluster and user in a kubeconfig.
func contextName(cluster string) string { return "gondola-" + cluster }

// Kubeconfig returns the administrator's kubeconfig, certificates inside, with contextName as its current context. It is there as soon as
// Run has made the certificates.
func (c *Cluster) Kubeconfig() ([]byte, error) {
	k := c.kubeconfig(adminClient)
	if err := api.FlattenConfig(k); err != nil {
		return nil, fmt.Errorf("kubeconfig of cluster %s: %w", c.cfg.Name, err)
	}
	return clientcmd.Write(*k)
}

// kubeconfig names the certificates of an identity by their paths, so that whoever uses it notices renewed ones.
func (c *Cluster) kubeconfig(identity string) *api.Config {
	name := contextName(c.cfg.Name)
	k := api.NewConfig()
	k.Clusters[name] = &api.Cluster{Server: c.endpoint(), CertificateAuthority: c.pki.file("ca.crt")}
	k.AuthInfos[name] = &api.AuthInfo{ClientCertificate: c.pki.file(identity + ".crt"), ClientKey: c.pki.file(identity + ".key")}
	k.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	k.CurrentContext = name
	return k
}

// rest returns a client configuration of an identity, without a rate limit of its own: the API server's fairness is enough.
func (c *Cluster) rest(identity string) *rest.Config {
	return &rest.Config{
		Host: c.endpoint(), QPS: -1, UserAgent: "gondola/" + identity,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.pki.file("ca.crt"), CertFile: c.pki.file(identity + ".crt"), KeyFile: c.pki.file(identity + ".key")},
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}
}

// WithServer returns a kubeconfig whose clusters are reached at another URL.
func WithServer(kubeconfig []byte, url string) ([]byte, error) {
	k, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	for _, c := range k.Clusters {
		c.Server = url
	}
	return clientcmd.Write(*k)
}

// MergeKubeconfig puts the contexts, clusters and users of kubeconfig into the file at path, replacing those of the same name, and returns which
// context is current there then: that of kubeconfig where the file did not have it yet or had none current, else the one that was. All else in
// the file stays, and its owner and mode, though comments and order are lost; a file that has all of this already is not touched. A new one has mode
// 0600 and belongs to uid and gid or, where they are negative, to the owner of the nearest directory that is there; missing directories are made
// and owned likewise. It appears at once and whole.
func MergeKubeconfig(path string, kubeconfig []byte, uid, gid int) (current string, err error) {
	add, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return "", fmt.Errorf("kubeconfig: %w", err)
	}
	err = changeKubeconfig(path, uid, gid, func(k *api.Config) {
		if k.CurrentContext == "" || k.Contexts[add.CurrentContext] == nil {
			k.CurrentContext = add.CurrentContext
		}
		current = k.CurrentContext
		merge(k, add)
	})
	return current, err
}

// RenewKubeconfig brings newer certificates into the file at path, where it has the current context of kubeconfig for the same cluster. All else stays as
// it is, the current context too.
func RenewKubeconfig(path string, kubeconfig []byte) error {
	add, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	if k, err := clientcmd.LoadFromFile(path); os.IsNotExist(err) || err == nil && !sameCluster(k, add) {
		return nil
	}
	return changeKubeconfig(path, -1, -1, func(k *api.Config) { merge(k, add) })
}

// merge puts what is in add into k.
func merge(k, add *api.Config) {
	maps.Copy(k.Clusters, add.Clusters)
	maps.Copy(k.AuthInfos, add.AuthInfos)
	maps.Copy(k.Contexts, add.Contexts)
}

// sameCluster says whether the current context of ours is in k too, for the same server with the same authority: another installation may have a cluster
// of the same name.
func sameCluster(k, ours *api.Config) bool {
	theirs, own := k.Contexts[ours.CurrentContext], ours.Contexts[ours.CurrentContext]
	if theirs == nil || own == nil {
		return false
	}
	a, b := k.Clusters[theirs.Cluster], ours.Clusters[own.Cluster]
	return a != nil && b != nil && a.Server == b.Server && bytes.Equal(a.CertificateAuthorityData, b.CertificateAuthorityData)
}

// RemoveFromKubeconfig takes the current context of kubeconfig out of the file at path where it is there for the same cluster, and its cluster and user
// unless another context uses them. If it was current, none is; a file with nothing left in it goes. A missing file or context is no error.
func RemoveFromKubeconfig(path string, kubeconfig []byte) error {
	ours, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	context := ours.CurrentContext
	if k, err := clientcmd.LoadFromFile(path); os.IsNotExist(err) || err == nil && !sameCluster(k, ours) {
		return nil
	}
	return changeKubeconfig(path, -1, -1, func(k *api.Config) {
		gone := k.Contexts[context]
		delete(k.Contexts, context)
		if k.CurrentContext == context {
			k.CurrentContext = ""
		}
		clusterUsed, userUsed := false, false
		for _, other := range k.Contexts {
			clusterUsed = clusterUsed || other.Cluster == gone.Cluster
			userUsed = userUsed || other.AuthInfo == gone.AuthInfo
		}
		if !clusterUsed {
			delete(k.Clusters, gone.Cluster)
		}
		if !userUsed {
			delete(k.AuthInfos, gone.AuthInfo)
		}
	})
}

func changeKubeconfig(path string, uid, gid int, change func(*api.Config)) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // replace what a link leads to, not the link
	}
	k, err := clientcmd.LoadFromFile(path)
	if os.IsNotExist(err) {
		k, err = api.NewConfig(), nil
	}
	if err != nil {
		return fmt.Errorf("%s cannot be read as a kubeconfig and stays as it is; repair it or set KUBECONFIG to another file: %w", path, err)
	}
	before, err := clientcmd.Write(*k)
	if err != nil {
		return err
	}
	change(k)
	if len(k.Contexts) == 0 && len(k.Clusters) == 0 && len(k.AuthInfos) == 0 {
		return os.Remove(path) // nothing else was ever in it
	}
	b, err := clientcmd.Write(*k)
	if err != nil || bytes.Equal(b, before) {
		return err
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		uid, gid = owner(info)
		mode = info.Mode().Perm()
	} else if uid, gid, err = makeOwnedDir(filepath.Dir(path), uid, gid); err != nil {
		return err
	}
	return replaceFile(path, b, mode, uid, gid)
}

// makeOwnedDir makes dir and its missing parents; only those it makes change their owner. It returns whose they are.
func makeOwnedDir(dir string, uid, gid int) (int, int, error) {
	if info, err := os.Stat(dir); err == nil {
		if uid < 0 || gid < 0 {
			uid, gid = owner(info)
		}
		return uid, gid, nil
	}
	uid, gid, err := makeOwnedDir(filepath.Dir(dir), uid, gid)
	if err != nil {
		return uid, gid, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return uid, gid, err
	}
	return uid, gid, os.Lchown(dir, uid, gid)
}

// replaceFile writes a file beside path and moves it there.
func replaceFile(path string, b []byte, mode fs.FileMode, uid, gid int) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".gondola-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := errors.Join(f.Chown(uid, gid), f.Chmod(mode), f.Sync()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func owner(info fs.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}
