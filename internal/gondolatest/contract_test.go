package gondolatest_test

import (
	"testing"

	"gondola"
	"gondola/internal/gondolatest"
)

func TestContract_Worker(t *testing.T) {
	gondolatest.Machines(t, func(t *testing.T) gondola.Platform {
		return gondolatest.New(t, gondolatest.Options{}).Workers[0].Worker
	})
}

func TestContract_Market(t *testing.T) {
	gondolatest.Machines(t, func(t *testing.T) gondola.Platform { return gondolatest.New(t, gondolatest.Options{}).Market })
}

func TestContract_Client(t *testing.T) {
	gondolatest.Machines(t, func(t *testing.T) gondola.Platform { return gondolatest.New(t, gondolatest.Options{}).Client })
}
