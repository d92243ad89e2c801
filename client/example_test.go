package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"gondola"
	"gondola/client"
	"gondola/internal/gondolatest"
)

// platform starts a platform for an example, with one worker of 2 CPUs and 1 GB in region fra.
func platform() (url, token string, end func()) {
	p, done, err := gondolatest.Outside(gondolatest.Options{Regions: []gondola.Region{"fra"}, Total: gondola.Resources{CPUMillis: 2000, MemoryBytes: 1 << 30}})
	if err != nil {
		log.Fatal(err)
	}
	return p.URL, p.Auth.Root(), func() {
		if err := done(); err != nil {
			log.Fatal(err)
		}
	}
}

// A Machine from create to destroy. Against Fly.io the URL is https://api.machines.dev, and the token one of "fly tokens create".
func Example() {
	url, token, end := platform()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	c, err := client.New(client.Config{URL: url, Token: token, Retries: 3})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.CreateApp(ctx, gondola.NewApp{Name: "shop", Org: gondola.Org}); err != nil {
		log.Fatal(err)
	}
	m, err := c.Create(ctx, "shop", gondola.CreateRequest{Name: "web", Region: "fra", Config: gondola.Config{Image: "test/app"}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Wait(ctx, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Started}}); err != nil {
		log.Fatal(err)
	}
	res, err := c.Exec(ctx, m.Ref(), gondola.ExecRequest{Command: []string{"/program", "print", "hello"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s in %s says %s", m.Name, m.Region, res.Stdout)
	if err := c.Destroy(ctx, m.Ref(), true); err != nil {
		log.Fatal(err)
	}
	// Output: web in fra says hello
}

// Errors have kinds. No room is told at once, with what every worker that was asked has to say.
func ExampleClient_Create_noRoom() {
	url, token, end := platform()
	defer end()
	ctx := context.Background()
	c, err := client.New(client.Config{URL: url, Token: token})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.CreateApp(ctx, gondola.NewApp{Name: "shop", Org: gondola.Org}); err != nil {
		log.Fatal(err)
	}
	large, _ := gondola.GuestPreset("performance-8x")
	_, err = c.Create(ctx, "shop", gondola.CreateRequest{Region: "fra", Config: gondola.Config{Image: "test/app", Guest: &large}})
	fmt.Println(errors.Is(err, gondola.ErrCapacity))
	for _, r := range gondola.Refusals(err) {
		fmt.Printf("%s: %s\n", r.Region, r.Reason)
	}
	// Output:
	// true
	// fra: 8 CPUs and 16384 MB wanted, 2 CPUs and 1024 MB free of 2 CPUs and 1024 MB
}

// The deadline of a context bounds every call, and says so.
func ExampleClient_Wait_deadline() {
	url, token, end := platform()
	defer end()
	ctx := context.Background()
	c, err := client.New(client.Config{URL: url, Token: token})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.CreateApp(ctx, gondola.NewApp{Name: "shop", Org: gondola.Org}); err != nil {
		log.Fatal(err)
	}
	m, err := c.Create(ctx, "shop", gondola.CreateRequest{SkipLaunch: true, Config: gondola.Config{Image: "test/app"}})
	if err != nil {
		log.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = c.Wait(short, m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Started}})
	fmt.Println(errors.Is(err, gondola.ErrDeadline))
	// Output: true
}

// A lease keeps others from changing a Machine; whoever holds it shows its nonce.
func ExampleClient_AcquireLease() {
	url, token, end := platform()
	defer end()
	ctx := context.Background()
	c, err := client.New(client.Config{URL: url, Token: token})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.CreateApp(ctx, gondola.NewApp{Name: "shop", Org: gondola.Org}); err != nil {
		log.Fatal(err)
	}
	m, err := c.Create(ctx, "shop", gondola.CreateRequest{SkipLaunch: true, Config: gondola.Config{Image: "test/app"}})
	if err != nil {
		log.Fatal(err)
	}
	lease, err := c.AcquireLease(ctx, m.Ref(), gondola.LeaseRequest{TTL: 30})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("without the nonce:", errors.Is(c.Cordon(ctx, m.Ref()), gondola.ErrConflict))
	fmt.Println("with it:", c.Cordon(gondola.WithLease(ctx, lease.Nonce), m.Ref()))
	// Output:
	// without the nonce: true
	// with it: <nil>
}
