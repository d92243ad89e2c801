package main

import (
	"os"

	"gondola/internal/driver/gvisor/runsc"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "runsc" {
		os.Args = append([]string{"runsc"}, os.Args[2:]...)
	}
	runsc.Main()
}
