// Package seal makes secrets unreadable where they rest: AES-256-GCM with a key that lies in a file beside the database, so that a copy of
// either alone opens nothing. Who keeps what is sealed is not its business, nor is who may read it.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"gondola/internal/durable"
	"gondola/internal/failpoint"
)

const keySize = 32

// Key seals and opens. Methods may be called at the same time.
type Key struct {
	path string

	renewing sync.Mutex
	mu       sync.RWMutex
	keys     [][]byte // the first seals; all of them open
}

// OpenKey reads the key file, or makes it: random, mode 0600.
func OpenKey(path string) (*Key, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = newKey()
		err = durable.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	if len(b) == 0 || len(b)%keySize != 0 {
		return nil, fmt.Errorf("open key: %s has %d bytes, want %d: put the right file back, or remove it together with what it seals", path, len(b), keySize)
	}
	k := &Key{path: path}
	for ; len(b) > 0; b = b[keySize:] {
		k.keys = append(k.keys, b[:keySize:keySize])
	}
	return k, nil
}

func newKey() []byte {
	b := make([]byte, keySize)
	rand.Read(b)
	return b
}

func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // of the size alone
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return a
}

// Seal seals plain, with a random nonce in front. Open wants the same about, which keeps one thing from being passed off as another.
func (k *Key) Seal(about string, plain []byte) []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a := aead(k.keys[0])
	nonce := make([]byte, a.NonceSize())
	rand.Read(nonce)
	return a.Seal(nonce, nonce, plain, []byte(about))
}

// Open is the opposite of Seal. Its error names about and the key file, and holds nothing of the contents.
func (k *Key) Open(about string, sealed []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, key := range k.keys {
		a := aead(key)
		if len(sealed) < a.NonceSize() {
			break
		}
		if plain, err := a.Open(nil, sealed[:a.NonceSize()], sealed[a.NonceSize():], []byte(about)); err == nil {
			return plain, nil
		}
	}
	return nil, fmt.Errorf("%s cannot be opened with the key of %s: put the right key file back", about, k.path)
}

// Digest tells whether two values are equal, and nothing else to those who do not have the key: 16 hexadecimal characters.
func (k *Key) Digest(about string, plain []byte) string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	mac := hmac.New(sha256.New, k.keys[0])
	fmt.Fprintf(mac, "digest\x00%d\x00%s\x00", len(about), about)
	mac.Write(plain)
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// Renew makes a new key, has reseal bring all that is sealed under it, and then forgets the older ones. Until reseal has returned without an
// error both open, after a crash too, and doing it again finishes it.
func (k *Key) Renew(reseal func() error) error {
	k.renewing.Lock()
	defer k.renewing.Unlock()
	k.mu.RLock()
	keys := append([][]byte{newKey()}, k.keys...)
	k.mu.RUnlock()
	if err := k.set(keys); err != nil {
		return fmt.Errorf("write the new key: %w", err)
	}
	failpoint.Hit("seal.renew.added")
	if err := reseal(); err != nil {
		return err
	}
	failpoint.Hit("seal.renew.resealed")
	if err := k.set(keys[:1]); err != nil {
		return fmt.Errorf("forget the old key: %w", err)
	}
	failpoint.Hit("seal.renew.done")
	return nil
}

func (k *Key) set(keys [][]byte) error {
	var all []byte
	for _, key := range keys {
		all = append(all, key...)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := durable.WriteFile(k.path, all, 0o600); err != nil {
		return err
	}
	k.keys = keys
	return nil
}
