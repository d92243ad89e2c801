package host

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// checkNetworks makes a network namespace, and in it a pair of veth devices, and asks for nftables.
func checkNetworks() Check {
	type result struct {
		step string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{"namespace", err}
			return
		}
		if err := tryVeth(); err != nil {
			done <- result{"veth", err}
			return
		}
		done <- result{"nf_tables", tryNftables()}
	}()
	r := <-done
	if r.err == nil {
		return Check{Name: "networks", OK: true, Required: true, Detail: "network namespaces, veth and nf_tables work"}
	}
	remedy := "load the module: modprobe " + r.step
	if r.step == "namespace" {
		remedy = "allow network namespaces: run on the host itself, or in a privileged container"
	}
	return failed("networks", fmt.Errorf("%s: %w", r.step, r.err), remedy)
}

// tryVeth asks the kernel for a pair of veth devices: RTM_NEWLINK with the kind alone, see rtnetlink(7).
func tryVeth() error {
	kind := attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte("veth")))
	return ask(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(make([]byte, unix.SizeofIfInfomsg), kind...))
}

// tryNftables asks for the generation of the rules.
func tryNftables() error {
	return ask(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, make([]byte, 4)) // struct nfgenmsg
}

func attribute(kind uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// ask sends one netlink message and returns the error that comes back.
func ask(protocol int, kind, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}); err != nil {
		return err
	}
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8)...) // sequence number, sender
	if err := unix.Sendto(fd, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n >= unix.SizeofNlMsghdr+4 && binary.NativeEndian.Uint16(buf[4:]) == unix.NLMSG_ERROR {
		if code := int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}
