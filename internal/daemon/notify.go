package daemon

import (
	"fmt"
	"net"
	"os"
)

// notify tells systemd how the daemon is, as sd_notify(3) does. Where no service manager asked for it, it does nothing.
func notify(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	if socket[0] == '@' { // of the abstract namespace
		socket = "\x00" + socket[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager %q: %w", state, err)
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
