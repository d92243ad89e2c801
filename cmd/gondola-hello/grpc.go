package main

import (
	"io"
	"net/http"
	"strings"
)

// health answers grpc.health.v1.Health/Check with SERVING for the whole server (no name), so that a grpc probe has something to ask; any other
// name is unknown. The messages are small enough to be read and written by hand: field 1 of the request is a string, of the answer a number.
func health(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	if err != nil || r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		http.Error(w, "this path speaks gRPC over HTTP/2", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	if len(body) > 5 { // frame of five bytes, then the message: it names a service
		w.Header().Set("Grpc-Status", "5")
		return
	}
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 1 << 3, 1})
	w.Header().Set("Grpc-Status", "0")
}
