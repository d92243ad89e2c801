package worker

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gondola"
)

// sealer seals payloads with the worker's key (AES-256-GCM, a random nonce in front), bound to their Machine's id.
type sealer struct{ aead cipher.AEAD }

// openKey reads the key file, or makes it: 32 random bytes, mode 0600. It lies outside the database, so that a copy of that opens nothing.
func openKey(path string) (sealer, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		rand.Read(key)
		err = writeKey(path, key)
	}
	if err != nil {
		return sealer{}, fmt.Errorf("key of payloads: %w", err)
	}
	if len(key) != 32 {
		return sealer{}, fmt.Errorf("key of payloads: %s has %d bytes, want 32: put the right file back, or remove it together with the worker's data",
			path, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCM(block)
	return sealer{aead}, err
}

// writeKey makes the file whole or not at all.
func writeKey(path string, key []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// seal returns nil for no payload.
func (s sealer) seal(id gondola.MachineID, p *gondola.Payload) ([]byte, error) {
	if p == nil {
		return nil, nil
	}
	plain, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, plain, []byte(id)), nil
}

// open is the opposite of seal.
func (s sealer) open(id gondola.MachineID, sealed []byte) (*gondola.Payload, error) {
	if sealed == nil {
		return nil, nil
	}
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, fmt.Errorf("payload of machine %s is cut", id)
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(id))
	if err != nil {
		return nil, fmt.Errorf("payload of machine %s cannot be opened with the worker's key: %w", id, err)
	}
	var p gondola.Payload
	if err := json.Unmarshal(plain, &p); err != nil {
		return nil, fmt.Errorf("payload of machine %s: %w", id, err)
	}
	return &p, nil
}
