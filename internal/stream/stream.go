// Package stream carries the streams of an exec, an attach or a port-forward over one WebSocket.
//
// Frames of an exec are binary messages whose first byte is the channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome (JSON, last), 4 a
// terminal size (JSON), 5 end of stdin. Frames of a connection are its bytes. The API, its client and the pilot's socket use the same frames.
package stream
