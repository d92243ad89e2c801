// Package gondola is the vocabulary of the platform: what an App, a Machine, its Config and its State are, how a place for a Machine is
// found (Ask, Bid), which kinds of error there are, and the contracts that the other packages implement or use.
//
// The JSON of App, Machine, Config and Event is the wire format of Fly.io's Machines API (https://docs.machines.dev, OpenAPI file of
// May 2026); what that format lacks travels in one optional object named "gondola" on a few of these types (see extension.go and
// docs/rfd/0002-gondola-extension.md).
//
// The package imports only the standard library and does no I/O.
package gondola

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"
)

// MachineID names a Machine: 14 lower-case hexadecimal characters, unique over a fleet, chosen by whoever places the Machine.
type MachineID string

// AppName names an App: lower-case letters, digits and dashes, at most 63, unique over a server.
type AppName string

// Region is a place with Workers: its short code ("fra", or "local" where none was named).
type Region string

// Version names one Config of a Machine: a ULID of 26 characters, so later ones sort behind earlier ones. Fly.io calls it instance_id.
type Version string

// WorkerName names a Worker within a fleet, by default its region.
type WorkerName string

// DefaultRegion is the region of a host for which none was named.
const DefaultRegion Region = "local"

// Org is the organisation of Apps that name none.
const Org = "personal"

// NewMachineID returns a fresh random MachineID.
func NewMachineID() MachineID {
	var b [7]byte
	rand.Read(b[:])
	return MachineID(hex.EncodeToString(b[:]))
}

// NewVersion returns a fresh Version for the moment now.
func NewVersion(now time.Time) Version { return Version(NewULID(now)) }

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewULID returns a ULID (https://github.com/ulid/spec): 48 bits of milliseconds, 80 random bits, 26 characters of Crockford's base 32.
func NewULID(now time.Time) string {
	var b [16]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	rand.Read(b[6:])
	var s strings.Builder
	// 128 bits in 26 digits of 5 bits: the first digit holds the top 3.
	hi, lo := be64(b[:8]), be64(b[8:])
	for i := 25; i >= 0; i-- {
		shift := uint(5 * i)
		var d uint64
		switch {
		case shift >= 64:
			d = hi >> (shift - 64)
		case shift == 60:
			d = lo>>60 | hi<<4
		default:
			d = lo >> shift
		}
		s.WriteByte(crockford[d&31])
	}
	return s.String()
}

func be64(b []byte) (v uint64) {
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v
}

var (
	adjectives = []string{"autumn", "billowing", "bold", "broken", "calm", "cold", "cool", "crimson", "damp", "dark", "dawn", "delicate", "divine", "dry", "empty", "falling", "floral", "fragrant", "frosty", "green", "hidden", "holy", "icy", "late", "lingering", "little", "lively", "long", "misty", "morning", "muddy", "old", "patient", "polished", "proud", "purple", "quiet", "red", "restless", "rough", "shy", "silent", "small", "snowy", "solitary", "spring", "still", "summer", "twilight", "wandering", "white", "wild", "winter", "young"}
	nouns      = []string{"bird", "breeze", "brook", "bush", "butterfly", "cherry", "cloud", "darkness", "dawn", "dew", "dream", "dust", "feather", "field", "fire", "firefly", "flower", "fog", "forest", "frog", "frost", "glade", "glitter", "grass", "haze", "hill", "lake", "leaf", "meadow", "moon", "morning", "mountain", "night", "paper", "pine", "pond", "rain", "resonance", "river", "sea", "shadow", "shape", "silence", "sky", "smoke", "snow", "snowflake", "sound", "star", "sun", "sunset", "surf", "thunder", "tree", "violet", "voice", "water", "waterfall", "wave", "wildflower", "wind", "wood"}
)

// NewMachineName returns a name such as "misty-river-4821" for a Machine that was given none.
func NewMachineName() string {
	var b [4]byte
	rand.Read(b[:])
	n := (int(b[2])<<8 | int(b[3])) % 10000
	digits := []byte{'0' + byte(n/1000), '0' + byte(n/100%10), '0' + byte(n/10%10), '0' + byte(n%10)}
	return adjectives[int(b[0])%len(adjectives)] + "-" + nouns[int(b[1])%len(nouns)] + "-" + string(digits)
}
