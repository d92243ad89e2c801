package gondola

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Signal is a signal's name, "SIGTERM"; on input also without SIG or as a number (fly-go's Kill sends 9, trap 3).
type Signal string

var signalNumbers = map[Signal]int{
	"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGFPE": 8, "SIGKILL": 9, "SIGUSR1": 10, "SIGSEGV": 11,
	"SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15, "SIGCONT": 18, "SIGSTOP": 19, "SIGWINCH": 28,
}

// Number returns the signal's number on Linux, 0 if unknown.
func (s Signal) Number() int { return signalNumbers[s] }

func (s *Signal) UnmarshalJSON(b []byte) error {
	if string(b) == "null" { // as if it were not there
		return nil
	}
	var n int
	if json.Unmarshal(b, &n) == nil {
		for name, num := range signalNumbers {
			if num == n {
				*s = name
				return nil
			}
		}
		return fmt.Errorf("signal %d is not known", n)
	}
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return fmt.Errorf("signal %s: want a name such as \"SIGTERM\"", b)
	}
	v, err := ParseSignal(name)
	*s = v
	return err
}

// ParseSignal reads "SIGTERM", "TERM" or "term"; the empty string is the empty Signal.
func ParseSignal(name string) (Signal, error) {
	if name == "" {
		return "", nil
	}
	s := Signal(strings.ToUpper(name))
	if !strings.HasPrefix(string(s), "SIG") {
		s = "SIG" + s
	}
	if s.Number() == 0 {
		return "", Errorf(ErrInvalid, "signal %q is not known: use a name such as SIGTERM", name)
	}
	return s, nil
}
