package gondola_test

import (
	"errors"
	"strings"
	"testing"

	"gondola"
)

func TestCheckSysctls_TakesTheMachinesOwnAndNamesTheHosts(t *testing.T) {
	for name, own := range map[string]bool{"net.ipv4.ip_local_port_range": true, "net/ipv4/tcp_rmem": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
		"kernel.msgmax": true, "kernel.sem": true, "fs.mqueue.msg_max": true, "kernel.panic": false, "vm.swappiness": false, "fs.file-max": false, "kernel.semx": false} {
		err := gondola.CheckSysctls(map[string]string{name: "1"})
		if own && err != nil || !own && (!errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), name)) {
			t.Errorf("CheckSysctls(%s) = %v, want that it is the machine's own: %v", name, err, own)
		}
	}
}
