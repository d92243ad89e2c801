package kube

import (
	"crypto/tls"
	"os"
	"sync"
	"time"
)

// serving returns a certificate for tls.Config.GetCertificate: the one in the files of the moment, so that a renewed one is used from the next
// connection on.
func (p *pki) serving(base string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var known *tls.Certificate
	var written time.Time
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		fi, err := os.Stat(p.file(base + ".crt"))
		if err == nil && (known == nil || !fi.ModTime().Equal(written)) {
			var pair tls.Certificate
			if pair, err = tls.LoadX509KeyPair(p.file(base+".crt"), p.file(base+".key")); err == nil {
				known, written = &pair, fi.ModTime()
			}
		}
		if known != nil {
			return known, nil // one that cannot be read just now is no reason to stop serving
		}
		return nil, err
	}
}
