package gondolatest_test

import (
	"testing"
	"time"

	"gondola"
	"gondola/internal/gondolatest"
)

func TestNew_RunsAMachineOverHTTP(t *testing.T) {
	p := gondolatest.New(t, gondolatest.Options{})
	p.NewApp("shop")
	m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Config: gondola.Config{Image: "test/app"}})
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Wait(t.Context(), m.Ref(), gondola.WaitRequest{Timeout: 20 * time.Second})
	if err != nil || res.State != gondola.Started {
		t.Fatalf("Wait = %+v, %v", res, err)
	}
	if err := p.DeleteApp(t.Context(), "shop"); err != nil {
		t.Errorf("DeleteApp = %v", err)
	}
}
