package api_test

import (
	"encoding/json"
	"testing"

	"gondola"
)

func TestMemory_ChangesWhileTheMachineRuns(t *testing.T) {
	s := newServer(t)
	m := s.started(`{"name":"big","config":{"image":"test/app","guest":{"cpu_kind":"shared","cpus":2,"memory_mb":512}}}`)
	get := func() (v gondola.Machine) {
		if err := json.Unmarshal([]byte(s.call("GET", m, "").body), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	before := get()
	s.wants("GET", m+"/memory", "", 200, `^\{"limit_mb":512,"available_mb":\d+\}`)
	s.wants("PUT", m+"/memory", `{"limit_mb":1024}`, 200, `^\{"limit_mb":1024,"available_mb":\d+\}`)
	s.wants("GET", m+"/memory", "", 200, `^\{"limit_mb":1024,"available_mb":\d+\}`)
	after := get()
	if g := after.Config.Guest; g == nil || g.CPUKind != "shared" || g.CPUs != 2 || g.MemoryMB != 1024 || after.Config.Gondola != nil {
		t.Errorf("guest %+v, gondola %+v; want the guest with another memory", g, after.Config.Gondola)
	}
	if after.Version != before.Version || after.Gondola.SandboxID != before.Gondola.SandboxID || after.Gondola.Allocated.MemoryBytes != 1<<30 || after.Gondola.Resize != nil {
		t.Errorf("%+v, want the sandbox of the same version that holds 1 GiB", after)
	}

	s.wants("PUT", m+"/memory", `{"limit_mb":1000}`, 422, `memory_mb 1000: with cpu_kind shared and 2 cpus use 512 to 4096 in steps of 256`)
	s.wants("PUT", m+"/memory", `{}`, 400, `limit_mb is missing`)
	s.wants("PUT", m+"/memory", `{"limit_mb":8192}`, 422, `512 to 4096`)
	s.wants("GET", "/v1/apps/shop/machines/00000000000009/memory", "", 404, `machine not found`)
	s.wants("POST", m+"/stop", "", 200, ``)
	s.wants("GET", m+"/wait?state=stopped&timeout=20", "", 200, `stopped`)
	s.wants("GET", m+"/memory", "", 412, `has no memory: it is stopped`)
	s.wants("PUT", m+"/memory", `{"limit_mb":512}`, 412, `has no memory: it is stopped`)
}
