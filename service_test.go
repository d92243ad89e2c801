package gondola_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"gondola"
)

func TestService_PlainPorts(t *testing.T) {
	for _, c := range []struct {
		service, others string
		open            []uint16
		invalid         string
	}{
		{service: `{"internal_port":80,"ports":[{"port":8080},{"port":8081,"handlers":[]}]}`, open: []uint16{8080, 8081}},
		{service: `{"protocol":"udp","internal_port":53,"ports":[{"port":53}]}`, open: []uint16{53}},
		{service: `{"internal_port":80,"ports":[{"port":443,"handlers":["tls","http"]},{"port":81}]}`, open: []uint16{81}, others: "port 443: handlers tls, http"},
		{service: `{"internal_port":80,"ports":[{"start_port":100,"end_port":200}]}`, others: "ports 100 to 200"},
		{service: `{"internal_port":0,"ports":[]}`},
		{service: `{"internal_port":80,"ports":[{"port":70000}]}`, invalid: "port 70000"},
		{service: `{"ports":[{"port":80}]}`, invalid: "internal_port 0"},
		{service: `{"protocol":"sctp","internal_port":80}`, invalid: `protocol "sctp"`},
		{service: `{"internal_port":80,"ports":[{"port":"80"}]}`, invalid: "ports"},
	} {
		var s gondola.Service
		if err := json.Unmarshal([]byte(c.service), &s); err != nil {
			t.Fatal(err)
		}
		open, others, err := s.PlainPorts()
		if c.invalid != "" {
			if !errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), c.invalid) {
				t.Errorf("%s: error %v, want %q", c.service, err, c.invalid)
			}
			continue
		}
		if err != nil || !slices.Equal(open, c.open) || !strings.HasPrefix(strings.Join(others, "; "), c.others) || c.others == "" && len(others) > 0 {
			t.Errorf("%s: open %v, others %q, %v; want %v, %q", c.service, open, others, err, c.open, c.others)
		}
	}
}
