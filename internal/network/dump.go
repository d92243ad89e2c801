package network

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dump asks the kernel for a list again when it has changed while it was read: what came is not all of it then.
func dump[T any](list func() (T, error)) (T, error) {
	const tries = 20 // of less than a millisecond each
	for i := 1; ; i++ {
		all, err := list()
		if i == tries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}
