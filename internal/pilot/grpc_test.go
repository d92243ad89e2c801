package pilot

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"gondola"
)

func TestProbeGRPC_AsksARealServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	checks := health.NewServer()
	checks.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	checks.SetServingStatus("well", healthpb.HealthCheckResponse_SERVING)
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, checks)
	go server.Serve(l)
	defer server.Stop()
	port := l.Addr().(*net.TCPAddr).Port
	p := &prober{spec: &Spec{}}
	for _, row := range []struct {
		service, output string
		ok              bool
		port            int
	}{
		{"", "", true, port}, {"well", "", true, port}, {"sick", "responded with 2", false, port},
		{"nobody", "grpc status 5", false, port}, {"", "connection refused", false, 1},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		ok, output := p.probeGRPC(ctx, "127.0.0.1", &gondola.GRPCProbe{Port: row.port, Service: row.service})
		cancel()
		if ok != row.ok || !strings.Contains(output, row.output) {
			t.Errorf("probe of %q = %v, %q, want %v, %q", row.service, ok, output, row.ok, row.output)
		}
	}
}

// A server that never answers is asked for ever, and must not collect what is left of each probe.
func TestProbeGRPC_LeavesNoConnectionAfterItsTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			defer conn.Close()
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = io.Copy(io.Discard, conn)
		}
		closed <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	p := &prober{spec: &Spec{}}
	if ok, output := p.probeGRPC(ctx, "127.0.0.1", &gondola.GRPCProbe{Port: l.Addr().(*net.TCPAddr).Port}); ok || !strings.Contains(output, "deadline exceeded") {
		t.Errorf("probe = %v, %q, want its time to be up", ok, output)
	}
	if err := <-closed; err != nil {
		t.Errorf("the connection of the probe: %v, want it closed", err)
	}
}
