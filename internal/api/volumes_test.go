package api_test

import (
	"encoding/json"
	"path"
	"testing"

	"gondola"
)

func TestVolumes_AsTheWireHasThem(t *testing.T) {
	s := newServer(t)
	const volumes = "/v1/apps/shop/volumes"
	s.wants("GET", volumes, "", 200, `^\[\]$`)
	s.wants("GET", "/v1/orgs/personal/volumes", "", 200, `"volumes":\[\]`)
	made := s.wants("POST", volumes, `{"name":"data","region":"local","size_gb":2,"encrypted":true,"require_unique_zone":true,"unknown":1}`, 200,
		`"id":"vol_[a-z0-9]{16}","name":"data","state":"created","size_gb":2,.*"encrypted":false,"attached_machine_id":null,.*"block_size":4096.*"fstype":"ext4"`)
	var v gondola.Volume
	if err := json.Unmarshal([]byte(made.body), &v); err != nil {
		t.Fatal(err)
	}
	one := volumes + "/" + string(v.ID)
	s.wants("PUT", one, `{"snapshot_retention":7}`, 200, `"snapshot_retention":7`)
	s.wants("PUT", one+"/extend", `{"size_gb":3}`, 200, `^\{"volume":\{.*"size_gb":3.*\},"needs_restart":false\}$`)
	s.wants("PUT", one+"/extend", `{"size_gb":2}`, 422, `only grow`)
	s.wants("PUT", one+"/extend", `{}`, 400, `size_gb is missing`)
	s.wants("GET", one+"/snapshots", "", 200, `^\[\]$`)
	s.wants("POST", one+"/snapshots", "", 200, `"id":"vs_[a-z0-9]{16}".*"status":"created"`)

	m := path.Base(s.machine(`{"config":{"image":"test/app","mounts":[{"volume":"` + string(v.ID) + `","path":"/data"}]}}`))
	s.wants("GET", one, "", 200, `"attached_machine_id":"`+m+`"`)
	s.wants("POST", "/v1/apps/shop/machines", `{"config":{"image":"test/app","mounts":[{"volume":"`+string(v.ID)+`","path":"/d"}]}}`, 412,
		`"error":"failed_precondition: volume already attached: machine `+m)
	s.wants("DELETE", one, "", 412, `attached to machine `+m)
	s.wants("POST", volumes, `{"name":"huge","size_gb":500}`, 200, ``)
	s.wants("POST", volumes, `{"name":"huge","size_gb":500}`, 200, ``)
	s.wants("POST", volumes, `{"name":"huge","size_gb":500}`, 400, `"error":"no capacity: no worker in local has 500 GB free.*"status":"volume_placement_capacity"`)
	s.wants("POST", volumes, `{"name":"no/name"}`, 422, `volume name`)
	s.wants("GET", volumes+"/vol_aaaaaaaaaaaaaaaa", "", 404, `"error":"not_found: volume not found`)
	s.wants("GET", "/v1/apps/nobody/volumes", "", 404, `Could not find App`)

	free := s.wants("POST", volumes, `{"name":"free","size_gb":1}`, 200, ``)
	if err := json.Unmarshal([]byte(free.body), &v); err != nil {
		t.Fatal(err)
	}
	s.wants("DELETE", volumes+"/"+string(v.ID), "", 200, `"id":"`+string(v.ID)+`"`)
	s.wants("GET", volumes+"/"+string(v.ID), "", 200, `"state":"pending_destroy".*"deleted_at":"`)
	s.wants("POST", "/v1/gondola/apps/shop/volumes/"+string(v.ID)+"/recover", "", 200, `"state":"created"`)
	s.wants("DELETE", "/v1/gondola/apps/shop/volumes/"+string(v.ID), "", 200, `"state":"destroying"`)
	s.wants("GET", volumes+"/"+string(v.ID), "", 404, `not_found`)
	s.wants("POST", volumes, `{"name":"raw","fstype":"raw"}`, 200, `"state":"created".*"fstype":"raw"`)
	s.wants("POST", volumes, `{"name":"other","fstype":"xfs"}`, 422, `fstype .*xfs.*: use ext4 or raw`)
	s.wants("GET", volumes+"?limit=1", "", 200, `^\[\{[^[]*\}\]$`)
	s.wants("GET", "/v1/apps/shop", "", 200, `"volume_count":4`)
}

// An id that a body or path names is another App's, or a thing of another kind: nothing happens to it.
func TestSnapshots_AnotherAppsIDIsTaken(t *testing.T) {
	s := newServer(t)
	s.NewApp("blog")
	made := func(path, body string) string {
		t.Helper()
		var v struct{ ID string }
		if err := json.Unmarshal([]byte(s.wants("POST", path, body, 200, `"id"`).body), &v); err != nil {
			t.Fatal(err)
		}
		return v.ID
	}
	theirs := made("/v1/apps/blog/volumes", `{"name":"data","size_gb":1}`)
	snapshot := made("/v1/apps/blog/volumes/"+theirs+"/snapshots", "")
	mine := made("/v1/apps/shop/volumes", `{"name":"data","size_gb":1}`)
	s.wants("POST", "/v1/apps/shop/volumes/"+mine+"/snapshots", `{"id":"`+theirs+`"}`, 422, `snapshot id`)
	s.wants("POST", "/v1/apps/shop/volumes/"+mine+"/snapshots", `{"id":"`+snapshot+`"}`, 409, `is taken`)
	s.wants("DELETE", "/v1/gondola/apps/blog/volumes/-/snapshots/"+theirs, "", 404, `snapshot not found`)
	s.wants("DELETE", "/v1/apps/blog/volumes/"+snapshot, "", 404, `volume not found`)
	s.wants("GET", "/v1/apps/blog/volumes/"+theirs, "", 200, `"state":"created"`)
	s.wants("GET", "/v1/apps/blog/volumes/"+theirs+"/snapshots", "", 200, snapshot)
	s.wants("GET", "/v1/gondola/apps/blog/snapshots", "", 200, snapshot)
	s.wants("GET", "/v1/gondola/apps/shop/snapshots", "", 200, `^\[\]$`)
	s.wants("GET", "/v1/gondola/apps/nothing/snapshots", "", 404, `Could not find App`)
	s.wants("DELETE", "/v1/gondola/apps/blog/volumes/-/snapshots/"+snapshot, "", 200, ``)
}
