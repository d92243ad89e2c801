package kube

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/certs"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"
)

const (
	certLife    = 365 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
)

// pki is the directory of a cluster's keys and certificates, laid out as kubeadm does (ca, front-proxy-ca, apiserver, …, sa), with the
// clients of our own beside them. Everything in it is made once and kept; a certificate with under 30 days left, or one that no longer says
// what it should, is made anew by ensure.
type pki struct {
	dir    string
	init   *kubeadmapi.InitConfiguration
	leaves []leaf
	now    func() time.Time
}

// leaf is a certificate that one of the two authorities signs.
type leaf struct {
	base   string // file name without .crt
	ca     string // base name of its issuer
	config pkiutil.CertConfig
}

// Identities of the parts of the control plane: base names of their certificates.
const (
	adminClient      = "admin"
	controllerClient = "controller-manager"
	schedulerClient  = "scheduler"
	dnsClient        = "coredns"
	providerClient   = "provider"
	storageClient    = "storage"
)

// Users and groups behind the identities.
const (
	dnsUser      = "gondola:coredns"
	providerUser = "gondola:provider"
	storageUser  = "gondola:storage"
)

func nodeClient(node string) string  { return "node-" + node }
func nodeServing(node string) string { return "kubelet-" + node }

// newPKI describes the certificates of cfg; nothing is read or written before ensure.
func newPKI(cfg *Config) *pki {
	sans := append([]string{"localhost", "127.0.0.1", cfg.Name}, cfg.Names...)
	for _, p := range cfg.ServiceCIDRs[1:] {
		sans = append(sans, p.Addr().Next().String())
	}
	if cfg.AddressV6.IsValid() {
		sans = append(sans, cfg.AddressV6.String())
	}
	p := &pki{dir: cfg.path("pki"), now: time.Now, init: &kubeadmapi.InitConfiguration{
		LocalAPIEndpoint: kubeadmapi.APIEndpoint{AdvertiseAddress: cfg.Address.String(), BindPort: int32(cfg.Port)},
		ClusterConfiguration: kubeadmapi.ClusterConfiguration{
			ClusterName: cfg.Name, CertificatesDir: cfg.path("pki"), EncryptionAlgorithm: kubeadmapi.EncryptionAlgorithmECDSAP256,
			Networking:                  kubeadmapi.Networking{ServiceSubnet: cfg.ServiceCIDRs[0].String(), DNSDomain: cfg.Domain},
			APIServer:                   kubeadmapi.APIServer{CertSANs: sans},
			CertificateValidityPeriod:   &metav1.Duration{Duration: certLife},
			CACertificateValidityPeriod: &metav1.Duration{Duration: 10 * certLife},
			Etcd:                        kubeadmapi.Etcd{External: &kubeadmapi.ExternalEtcd{}}, // no etcd certificates
		},
	}}
	p.leaves = append(p.leaves, metricsLeaf())
	p.client(adminClient, "gondola:admin", "system:masters")
	p.client(controllerClient, "system:kube-controller-manager")
	p.client(schedulerClient, "system:kube-scheduler")
	p.client(dnsClient, dnsUser)
	p.client(providerClient, providerUser)
	p.client(storageClient, storageUser)
	for _, n := range cfg.Nodes {
		p.client(nodeClient(n.Name), "system:node:"+n.Name, "system:nodes")
		names := certutil.AltNames{DNSNames: []string{n.Name}}
		for _, a := range n.Addresses {
			names.IPs = append(names.IPs, a.AsSlice())
		}
		p.leaves = append(p.leaves, leaf{nodeServing(n.Name), "ca", pkiutil.CertConfig{Config: certutil.Config{
			CommonName: "system:node:" + n.Name, Organization: []string{"system:nodes"}, AltNames: names,
			Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}}})
	}
	return p
}

func (p *pki) client(base, user string, groups ...string) {
	p.leaves = append(p.leaves, leaf{base, "ca", pkiutil.CertConfig{Config: certutil.Config{
		CommonName: user, Organization: groups, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}}})
}

// ensure makes what is missing, due for renewal or no longer right. Readers of the files (API server, clients) notice new ones by themselves.
func (p *pki) ensure() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	for _, ca := range []*certs.KubeadmCert{certs.KubeadmCertRootCA(), certs.KubeadmCertFrontProxyCA()} {
		if err := p.ensureCA(ca); err != nil {
			return fmt.Errorf("certificate authority %s in %s: %w", ca.BaseName, p.dir, err)
		}
	}
	leaves := slices.Clone(p.leaves)
	for _, k := range []*certs.KubeadmCert{certs.KubeadmCertAPIServer(), certs.KubeadmCertKubeletClient(), certs.KubeadmCertFrontProxyClient()} {
		config, err := k.GetConfig(p.init)
		if err != nil {
			return fmt.Errorf("certificate %s: %w", k.BaseName, err)
		}
		leaves = append(leaves, leaf{k.BaseName, k.CAName, *config})
	}
	for _, l := range leaves {
		if err := p.ensureLeaf(l); err != nil {
			return fmt.Errorf("certificate %s in %s: %w", l.base, p.dir, err)
		}
	}
	return p.ensureServiceAccountKey()
}

func (p *pki) ensureCA(k *certs.KubeadmCert) error {
	if cert, _, err := pkiutil.TryLoadCertAndKeyFromDisk(p.dir, k.BaseName); err == nil {
		if p.now().After(cert.NotAfter) {
			return fmt.Errorf("it ended on %s, and with it the trust in all of its certificates: destroy the cluster and create it again", cert.NotAfter.Format(time.DateOnly))
		}
		return nil
	} else if pkiutil.CertOrKeyExist(p.dir, k.BaseName) {
		return fmt.Errorf("cannot be read, and a new one would lock everybody out: %w", err)
	}
	config, err := k.GetConfig(p.init)
	if err != nil {
		return err
	}
	cert, key, err := pkiutil.NewCertificateAuthority(config)
	if err != nil {
		return err
	}
	return pkiutil.WriteCertAndKey(p.dir, k.BaseName, cert, key)
}

func (p *pki) ensureLeaf(l leaf) error {
	ca, caKey, err := pkiutil.TryLoadCertAndKeyFromDisk(p.dir, l.ca)
	if err != nil {
		return err
	}
	if cert, _, err := pkiutil.TryLoadCertAndKeyFromDisk(p.dir, l.base); err == nil && current(cert, ca, &l.config, p.now()) {
		return nil
	}
	now := p.now()
	l.config.NotBefore, l.config.NotAfter = now.Add(-5*time.Minute), now.Add(certLife)
	l.config.EncryptionAlgorithm = kubeadmapi.EncryptionAlgorithmECDSAP256
	cert, key, err := pkiutil.NewCertAndKey(ca, caKey, &l.config)
	if err != nil {
		return err
	}
	return pkiutil.WriteCertAndKey(p.dir, l.base, cert, key)
}

// current says whether cert is still good for at least 30 days, of this issuer, and for these names.
func current(cert, ca *x509.Certificate, want *pkiutil.CertConfig, now time.Time) bool {
	if now.Add(renewBefore).After(cert.NotAfter) || cert.CheckSignatureFrom(ca) != nil {
		return false
	}
	if cert.Subject.CommonName != want.CommonName || !sameSet(cert.Subject.Organization, want.Organization) || !sameSet(cert.DNSNames, want.AltNames.DNSNames) {
		return false
	}
	return sameSet(texts(cert.IPAddresses), texts(want.AltNames.IPs))
}

func texts(ips []net.IP) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// ensureServiceAccountKey keeps the key that signs service account tokens; it never changes, since every token would end with it.
func (p *pki) ensureServiceAccountKey() error {
	key, err := pkiutil.TryLoadKeyFromDisk(p.dir, "sa")
	if errors.Is(err, fs.ErrNotExist) || !exists(p.file("sa.key")) {
		if key, err = pkiutil.NewPrivateKey(kubeadmapi.EncryptionAlgorithmECDSAP256); err == nil {
			err = pkiutil.WriteKey(p.dir, "sa", key)
		}
	}
	if err != nil {
		return fmt.Errorf("service account key in %s: %w", p.dir, err)
	}
	public, err := pkiutil.EncodePublicKeyPEM(key.Public())
	if err != nil {
		return fmt.Errorf("service account key in %s: %w", p.dir, err)
	}
	if have, err := os.ReadFile(p.file("sa.pub")); err == nil && bytes.Equal(have, public) {
		return nil
	}
	return pkiutil.WritePublicKey(p.dir, "sa", key.Public())
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// file returns the path of one of its files.
func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// authorities returns the pool with the cluster's own authority.
func (p *pki) authorities() (*x509.CertPool, error) {
	pem, err := os.ReadFile(p.file("ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", p.file("ca.crt"))
	}
	return pool, nil
}
