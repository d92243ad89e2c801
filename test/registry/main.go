// Command registry serves a container registry with images of Debian's nginx, wrk, redis and PostgreSQL, made from the packages on this machine, and of
// programs of this tree that are its arguments, for the flows.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"gondola/test/image"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:5000", "address to serve on")
	demo := flag.String("demo", "", "program of the images foo, bar and baz")
	flag.Parse()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- http.Serve(l, registry.New(registry.Logger(log.New(io.Discard, "", 0)))) }()
	for repository, p := range images(*demo, flag.Args()) {
		if err := push(l.Addr().String()+"/"+repository+":"+cmp.Or(p.tag, "12"), p); err != nil {
			log.Fatalf("%s: %v", repository, err)
		}
	}
	fmt.Println("ready")
	log.Fatal(<-done)
}

// program is what goes into an image: files and folders of this machine with the libraries they need, empty folders, and how it runs.
type program struct {
	paths, dirs, env []string
	entry, cmd       []string
	user             string // root if empty
	tag              string // 12 if empty
}

func push(reference string, p program) error {
	layer, err := image.NewLayer().Dirs(p.dirs...).Paths(append(slices.Clone(p.paths), "/etc/passwd", "/etc/group")...).Done()
	if err != nil {
		return err
	}
	env := p.env
	if env == nil {
		env = []string{"PATH=/usr/sbin:/usr/bin"}
	}
	img, err := image.Of(v1.Config{Entrypoint: p.entry, Cmd: p.cmd, User: p.user, Env: env}, layer)
	ref, badName := name.ParseReference(reference)
	if err := cmp.Or(err, badName); err != nil {
		return err
	}
	return remote.Write(ref, img)
}
