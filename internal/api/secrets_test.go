package api_test

import (
	"testing"

	"gondola"
)

func TestSecrets_AsTheWireHasThem(t *testing.T) {
	s := newServer(t)
	const all, one = "/v1/apps/shop/secrets", "/v1/apps/shop/secrets/TOKEN"
	s.wants("GET", all, "", 200, `^\{"secrets":\[\]\}\s*$`)
	s.wants("POST", one, `{"value":"first"}`, 201, `"name":"TOKEN","digest":"[0-9a-f]{16}","created_at":"20.*Z","updated_at":"20.*Z","version":1,"Version":1`)
	s.wants("POST", all, `{"values":{"TOKEN":"second","A":"a","GONE":null}}`, 200, `"secrets":\[\{"name":"A".*"name":"TOKEN".*"version":2,"Version":2`)
	s.wants("GET", all, "", 200, `"name":"TOKEN","digest":"[0-9a-f]{16}"`)
	s.wants("GET", one+"?show_secrets=true", "", 200, `"value":"second"`)
	s.wants("GET", one+"?min_version=3", "", 412, `failed_precondition: min_version 3 is not reached`)
	s.wants("GET", one+"?min_version=x", "", 400, `min_version`)
	s.wants("GET", all+"/NONE", "", 404, `not_found: secret not found`)
	s.wants("GET", "/v1/apps/nobody/secrets", "", 404, `Could not find App`)
	s.wants("POST", one, `{}`, 400, `value is missing`)
	s.wants("POST", all, `{}`, 400, `values is missing`)
	s.wants("POST", all+"/FLY_REGION", `{"value":"x"}`, 400, `FLY_`)
	s.wants("POST", "/v1/apps/shop/machines", `{"config":{"image":"test/app"},"min_secrets_version":3}`, 412, `failed_precondition: min_secrets_version 3 is not reached`)
	s.wants("POST", "/v1/apps/shop/machines", `{"config":{"image":"test/app","files":[{"guest_path":"/x","secret_name":"NONE"}]}}`, 412, `secret not found`)
	s.wants("POST", "/v1/gondola/secrets/key", "", 200, `"ok":true`)
	s.wants("GET", one+"?show_secrets", "", 200, `"value":"second"`)
	s.wants("DELETE", one, "", 200, `"version":3`)
	s.wants("DELETE", one, "", 404, `not_found`)
}

func TestSecrets_AreShownOnlyToThoseWhoMayChangeThem(t *testing.T) {
	s := newServer(t)
	s.wants("POST", "/v1/apps/shop/secrets/TOKEN", `{"value":"x"}`, 201, ``)
	reader, err := s.Auth.Mint(gondola.Caveats{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.as(reader, "GET", "/v1/apps/shop/secrets", ""); got.status != 200 {
		t.Errorf("a token that may read lists secrets: %d %s", got.status, got.body)
	}
	for _, path := range []string{"/v1/apps/shop/secrets?show_secrets=true", "/v1/apps/shop/secrets/TOKEN?show_secrets=1"} {
		if got := s.as(reader, "GET", path, ""); got.status != 403 {
			t.Errorf("GET %s with a token that may read = %d %s, want 403", path, got.status, got.body)
		}
	}
}
