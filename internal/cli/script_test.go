package cli_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"gondola"
	"gondola/internal/cli"
	"gondola/internal/gondolatest"
)

// TestMain makes this test binary also the command gondola of the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"gondola": func() {
			os.Exit(cli.Main(context.Background(), cli.Parts{Version: "test", DataDir: os.Getenv("GONDOLA_DATA")}, os.Args[1:]))
		},
	})
}

// TestScripts runs what a person types (testdata/*.txtar), each script on a platform of its own with the regions aaa and bbb.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			p := gondolatest.New(e.T().(testing.TB), gondolatest.Options{Regions: []gondola.Region{"aaa", "bbb"}})
			e.Setenv("GONDOLA_API", p.URL)
			e.Setenv("GONDOLA_TOKEN", p.Auth.Root())
			e.Setenv("GONDOLA_DATA", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// set NAME COMMAND...: the variable NAME becomes the command's output.
			"set": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Exec(args[1], args[2:]...))
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
			},
		},
		RequireExplicitExec: true,
	})
}
