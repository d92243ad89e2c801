package pilot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"gondola"
)

// probeGRPC asks grpc.health.v1.Health/Check over HTTP/2 without TLS, as the kubelet does. The two messages are small enough to be written
// and read here: the request's field 1 is the service's name, the answer's field 1 is 1 for SERVING
// (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
func (p *prober) probeGRPC(ctx context.Context, host string, g *gondola.GRPCProbe) (ok bool, output string) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dialAddr(ctx, host, addr) }}
	defer transport.CloseIdleConnections()
	at := host
	if at == "" {
		at = p.address()
	}
	url := "http://" + net.JoinHostPort(at, strconv.Itoa(g.Port)) + "/grpc.health.v1.Health/Check"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(grpcRequest(g.Service)))
	if err != nil {
		return false, err.Error()
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("User-Agent", "kube-probe/gondola")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false, fmt.Sprintf("failed to connect to %s: %v", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return false, fmt.Sprintf("error: health rpc failed: %v", err)
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status") // an answer without a body has no trailers
	}
	if resp.StatusCode != http.StatusOK || status != "0" {
		return false, fmt.Sprintf("error: health rpc failed: HTTP status %d, grpc status %s: %s", resp.StatusCode, status, resp.Trailer.Get("Grpc-Message")+resp.Header.Get("Grpc-Message"))
	}
	if serving := grpcStatus(body); serving != 1 {
		return false, fmt.Sprintf("service unhealthy (responded with %d)", serving)
	}
	return true, ""
}

// grpcRequest is a HealthCheckRequest in its frame.
func grpcRequest(service string) []byte {
	var msg []byte
	if service != "" {
		msg = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service))), service...)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg)))
	return append(frame, msg...)
}

// grpcStatus is the status in the frame of a HealthCheckResponse; 0 (UNKNOWN) if there is none.
func grpcStatus(frame []byte) uint64 {
	if len(frame) < 7 || frame[0] != 0 || frame[5] != 1<<3 {
		return 0
	}
	status, _ := binary.Uvarint(frame[6:])
	return status
}
