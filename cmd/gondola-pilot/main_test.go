package main

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestInit_IsSmall: every Machine runs this program several times over, so whatever a package of ours does before main, such as to compile a
// large regular expression, each Machine pays in time and memory as often.
func TestInit_IsSmall(t *testing.T) {
	const most = 128 << 10 // bytes allocated by one package

	c := exec.Command(os.Args[0], "-test.run=^$")
	c.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inits := regexp.MustCompile(`(?m)^init (\S+) @.*, (\d+) bytes,`).FindAllStringSubmatch(string(out), -1)
	ours := 0
	for _, m := range inits {
		if m[1] != "gondola" && !strings.HasPrefix(m[1], "gondola/") {
			continue
		}
		ours++
		if n, err := strconv.Atoi(m[2]); err != nil || n > most {
			t.Errorf("the init of package %s allocates %s bytes, want %d at most: do it when it is wanted", m[1], m[2], most)
		}
	}
	if ours == 0 {
		t.Errorf("no init of a package of ours is traced in %q", out)
	}
}
