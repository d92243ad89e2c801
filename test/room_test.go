package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"gondola"
)

// fill REGION FILE...: in each file, MILLIS becomes the thousandths of a core that leave no room for a second Pod of the same size in the region.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("gondola", "market", "ask", "--json", "--region", args[0], "--cpu-millis", "1", "--memory", "1"))
	var a gondola.Auction
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &a))
	if len(a.Bids) != 1 {
		ts.Fatalf("region %s does not bid", args[0])
	}
	millis := fmt.Sprint(a.Bids[0].Free.CPUMillis * 3 / 4)
	for _, f := range args[1:] {
		f = ts.MkAbs(f)
		b, err := os.ReadFile(f)
		ts.Check(err)
		s := os.Expand(string(b), func(name string) string { return map[string]string{"MILLIS": millis}[name] })
		ts.Check(os.WriteFile(filepath.Clean(f), []byte(s), 0o600))
	}
}
