package gondolatest_test

import (
	"testing"

	"gondola"
	"gondola/internal/gondolatest"
)

// fakeLife is what the Machines of the random lives run on driver/fake.
func fakeLife(kind string) gondola.Config {
	c := gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"run"}}, Restart: &gondola.RestartPolicy{Policy: gondola.RestartNo}}
	switch kind {
	case "ends":
		c.Init.Cmd = []string{"exit", "0"}
	case "broken":
		c.Image = "nobody/has-this"
	}
	return c
}

func TestLives_FollowTheTable(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("lives")
	gondolatest.Lives{Platform: p.Client, App: "lives", Config: fakeLife, Lives: 60, Steps: 20}.Run(t)
}

func TestLives_FollowTheTableOverRestartsOfTheWorker(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("lives")
	w := p.Workers[0]
	gondolatest.Lives{Platform: p.Client, App: "lives", Config: fakeLife, Lives: 30, Steps: 15, Interrupt: func() { w.Stop(); w.Start() }}.Run(t)
}
