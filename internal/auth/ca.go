package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gondola"
)

// Role is what a certificate lets its holder be.
type Role string

// Roles.
const (
	RoleServer Role = "server" // may drive workers
	RoleWorker Role = "worker" // is driven
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	renewAt  = 30 * 24 * time.Hour // left
	early    = time.Hour           // certificates begin so long ago, for clocks that differ
)

// CA is the platform's own certificate authority. Server and workers trust it and nothing else.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA returns a fresh CA that is on no disk.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert, err := makeCert(&x509.Certificate{
		Subject: pkix.Name{CommonName: "gondola"}, NotBefore: now.Add(-early), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}, nil, key.Public(), key)
	return &CA{cert: cert, key: key}, err
}

// LoadOrCreateCA returns the CA kept in the file at path (certificate and key, PEM, mode 0600), which is made where it is not there.
func LoadOrCreateCA(path string) (*CA, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		ca, err := NewCA()
		if err != nil {
			return nil, err
		}
		text, err := encodePEM([][]byte{ca.cert.Raw}, ca.key)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := create(path, string(text)); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("write the platform's CA: %w", err)
		}
		b, err = os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the platform's CA: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("read the platform's CA: %w", err)
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, fmt.Errorf("the platform's CA in %s cannot be read: %w", path, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s does not hold the platform's CA", path)
	}
	return &CA{cert: pair.Leaf, key: key}, nil
}

// CertPEM returns the CA's certificate, without its key.
func (ca *CA) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Issue returns a certificate, good for a year, for one server or worker. It is reached under Hostname(role, name), whatever its address is.
func (ca *CA) Issue(role Role, name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	cert, err := makeCert(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-early), NotAfter: now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{Hostname(role, name)},
		URIs:        []*url.URL{{Scheme: uriScheme, Host: string(role), Path: "/" + name}},
	}, ca.cert, key.Public(), ca.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

const uriScheme = "gondola"

// Hostname is the name in the certificate of a server or worker, for the ServerName of a TLS connection to it.
func Hostname(role Role, name string) string { return name + "." + string(role) + ".gondola.internal" }

func makeCert(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// ListenConfig returns the TLS configuration for serving as (role, name): HTTP/2 and 1.1, client certificates of this CA are verified where
// one is sent. The certificate renews itself.
func (ca *CA) ListenConfig(role Role, name string) *tls.Config {
	own := &renewing{issue: func() (tls.Certificate, error) { return ca.Issue(role, name) }}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.current() },
		ClientCAs:      ca.pool(), ClientAuth: tls.VerifyClientCertIfGiven,
	}
}

// DialConfig returns the TLS configuration with which the server called name reaches a worker, and only that worker.
func (ca *CA) DialConfig(name string, worker gondola.WorkerName) *tls.Config {
	own := &renewing{issue: func() (tls.Certificate, error) { return ca.Issue(RoleServer, name) }}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: ca.pool(), ServerName: Hostname(RoleWorker, string(worker)),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.current() },
	}
}

func (ca *CA) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// renewing is a certificate that is issued anew before it runs out.
type renewing struct {
	issue func() (tls.Certificate, error)

	mu   sync.Mutex
	cert *tls.Certificate
}

func (r *renewing) current() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cert == nil || time.Until(r.cert.Leaf.NotAfter) < renewAt {
		c, err := r.issue()
		if err != nil {
			return nil, err
		}
		r.cert = &c
	}
	return r.cert, nil
}

// EncodePEM returns a certificate and its key as one PEM text, for a worker to take home.
func EncodePEM(c tls.Certificate) ([]byte, error) { return encodePEM(c.Certificate, c.PrivateKey) }

func encodePEM(chain [][]byte, key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...), nil
}

// certified returns the server whose verified client certificate came with a request. Listeners verify against the platform's CA alone.
func certified(r *http.Request) (Principal, bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return Principal{}, false
	}
	leaf := r.TLS.VerifiedChains[0][0]
	for _, u := range leaf.URIs {
		if u.Scheme == uriScheme && u.Host == string(RoleServer) {
			return Principal{Name: "server " + leaf.Subject.CommonName, Server: true}, true
		}
	}
	return Principal{}, false
}
