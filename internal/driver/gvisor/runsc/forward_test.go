package runsc

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Woken asks the sandbox to tell all who wait once more, and returns how many connections had something to tell of.
func (r *Runtime) Woken() (int64, error) {
	c, err := r.booted()
	if err != nil {
		return 0, err
	}
	snapshot, err := c.Sandbox.ExportMetrics(onlyWoken)
	if err != nil {
		return 0, err
	}
	if len(snapshot.Data) != 1 {
		return 0, fmt.Errorf("%d metrics, want one", len(snapshot.Data))
	}
	return snapshot.Data[0].Number.Int, nil
}

// TestWakeAll_TellsThoseWhoCameLate: who begins to wait for a connection after something came that he has not read, is told of it.
func TestWakeAll_TellsThoseWhoCameLate(t *testing.T) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	defer s.Destroy()
	if err := s.CreateNIC(1, loopback.New()); err != nil {
		t.Fatal(err)
	}
	address := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: sandboxLoopback, PrefixLen: 8}}
	if err := s.AddProtocolAddress(1, address, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	at := tcpip.FullAddress{Addr: sandboxLoopback, Port: 80}
	l, err := gonet.ListenTCP(s, at, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	var queue waiter.Queue
	ep, tcpErr := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if tcpErr != nil {
		t.Fatal(tcpErr)
	}
	defer ep.Close()
	wait := func(what string, events waiter.EventMask) (news chan struct{}, told func()) {
		e, news := waiter.NewChannelEntry(events)
		queue.EventRegister(&e)
		return news, func() {
			t.Helper()
			select {
			case <-news:
			case <-time.After(10 * time.Second):
				t.Fatal("not told of " + what)
			}
			queue.EventUnregister(&e)
		}
	}
	_, connected := wait("the connection", waiter.WritableEvents)
	if err := ep.Connect(at); err != nil {
		if _, ok := err.(*tcpip.ErrConnectStarted); !ok {
			t.Fatal(err)
		}
	}
	connected()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	_, written := wait("what was written", waiter.ReadableEvents)
	if n := wakeAll(s); n != 0 {
		t.Errorf("told of %d connections, and on none is anything to read", n)
	}
	if _, err := server.Write([]byte("news")); err != nil {
		t.Fatal(err)
	}
	written()
	late, told := wait("what was written before", waiter.ReadableEvents)
	if len(late) > 0 {
		t.Fatal("whoever comes late is told by the stack itself")
	}
	if n := wakeAll(s); n != 1 {
		t.Errorf("told of %d connections, want 1", n)
	}
	told()
}

// TestForwarded_AsksWhileItIsQuiet: some times after the last byte, and not for ever.
func TestForwarded_AsksWhileItIsQuiet(t *testing.T) {
	theirs, ours, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		began := time.Now()
		var asked []time.Duration
		f := newForwarded(ours, func() {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, time.Since(began))
		})
		after := func(d time.Duration, want ...time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			<-ctx.Done()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(asked, want) {
				t.Errorf("after %v it was asked at %v, want %v", time.Since(began), asked, want)
			}
			asked, began = nil, time.Now()
		}
		after(time.Minute, quiet[0], quiet[0]+quiet[1], quiet[0]+quiet[1]+quiet[2])
		f.Write([]byte("a"))
		after(quiet[0]+quiet[1], quiet[0], quiet[0]+quiet[1])
		theirs.Write([]byte("b"))
		f.Read(make([]byte, 1))
		after(quiet[0] / 2)
		f.Write([]byte("c")) // it goes on, so there is nothing to ask
		after(quiet[0] / 2)
		after(quiet[0], quiet[0]/2)
		f.CloseWrite()
		after(quiet[0]+quiet[1], quiet[0], quiet[0]+quiet[1])
		b := make([]byte, 10)
		if n, err := theirs.Read(b); string(b[:n]) != "ac" {
			t.Errorf("the sandbox reads %q, %v; want what was written and no end yet", b[:n], err)
		}
		after(time.Minute, quiet[2])
		if n, err := theirs.Read(b); err != io.EOF {
			t.Errorf("the sandbox reads %q, %v; want the end", b[:n], err)
		}
		theirs.Close()
		f.Close()
		f.Write([]byte("d"))
		after(time.Minute)
	})
}
