package gondola

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that reads a Go duration string or integer nanoseconds and prints a string (fly-go, trap 10).
type Duration time.Duration

func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

func (d *Duration) UnmarshalJSON(b []byte) error {
	var n int64
	if json.Unmarshal(b, &n) == nil {
		*d = Duration(n)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration %s: want a string such as \"15s\" or nanoseconds", b)
	}
	if s == "" {
		*d = 0
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q: want a string such as \"15s\"", s)
	}
	*d = Duration(v)
	return nil
}
