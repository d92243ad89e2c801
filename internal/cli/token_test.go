package cli_test

import (
	"strings"
	"testing"

	"gondola"
	"gondola/internal/gondolatest"
)

func TestToken_FromCreateToRevoke(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{})
	p.NewApp("shop")
	r := c.run("token", "create", "--name", "ci", "--app", "shop", "--expires", "1h")
	token := strings.TrimSpace(r.out)
	if r.code != 0 || !strings.HasPrefix(token, "gdl.") || strings.Contains(token, "\n") || !strings.Contains(r.err, "gondola token revoke tok_") {
		t.Fatalf("token create = %+v", r)
	}
	if apps := jsonOf[[]gondola.App](t, c.ok("--token", token, "app", "list", "--json")); len(apps) != 1 || apps[0].Name != "shop" {
		t.Errorf("app list with it = %+v", apps)
	}
	narrow := strings.TrimSpace(c.ok("token", "attenuate", "--read-only", "--expires", "10m", token))
	if r := c.run("--token", narrow, "app", "create", "other"); r.code != 1 || !strings.Contains(r.err, "may only read") {
		t.Errorf("app create with a narrowed token = %+v", r)
	}
	table := c.ok("tokens", "list") // as the official CLI has it
	if !strings.Contains(table, "ci") || !strings.Contains(table, "app shop") || !strings.Contains(table, "good") || strings.Contains(table, "gdl.") {
		t.Errorf("token list:\n%s", table)
	}
	list := jsonOf[[]gondola.Token](t, c.ok("token", "list", "--json"))
	if len(list) != 1 {
		t.Fatalf("token list --json = %+v", list)
	}
	if out := c.ok("token", "revoke", string(list[0].ID)); out != string(list[0].ID)+" revoked\n" {
		t.Errorf("token revoke = %q", out)
	}
	for _, tok := range []string{token, narrow} {
		if r := c.run("--token", tok, "app", "list"); r.code != 1 || !strings.Contains(r.err, "revoked") {
			t.Errorf("app list with a revoked token = %+v", r)
		}
	}
	if out := c.ok("token", "list"); !strings.Contains(out, "revoked") {
		t.Errorf("token list after it:\n%s", out)
	}
	other := strings.TrimSpace(c.ok("token", "attenuate", "--org", "personal"))
	c.ok("token", "revoke", other) // by itself: it is on no record
	if r := c.run("--token", other, "app", "list"); r.code != 1 {
		t.Errorf("a token revoked by its text works: %+v", r)
	}
	for _, args := range [][]string{{"create", "--expires", "-1h"}, {"create", "--expires", "0"}, {"revoke", "nonsense"}, {"revoke"}, {"attenuate", "nonsense"}} {
		if r := c.run(append([]string{"token"}, args...)...); r.code != 2 {
			t.Errorf("token %v = %+v, want exit code 2", args, r)
		}
	}
	if r := c.run("token", "create", "--app", "Not One"); r.code != 1 || !strings.Contains(r.err, "Not One") {
		t.Errorf("token create for an app that cannot be = %+v", r)
	}
}

// Who may not make Apps uses those that are there, and who belongs to an organisation makes them in it without naming it.
func TestToken_NarrowedMakesMachinesAndVolumesWhereItMay(t *testing.T) {
	c, p := newTerminal(t, gondolatest.Options{})
	p.NewApp("shop")
	ofShop := strings.TrimSpace(c.ok("token", "attenuate", "--app", "shop"))
	c.ok("--token", ofShop, "machine", "run", "--app", "shop", "test/app")
	c.ok("--token", ofShop, "machine", "create", "--app", "shop", "test/app")
	c.ok("--token", ofShop, "volume", "create", "data", "--app", "shop")
	if r := c.run("--token", ofShop, "machine", "run", "--app", "blog", "test/app"); r.code != 1 || !strings.Contains(r.err, `does not reach app "blog"`) {
		t.Errorf("machine run in another app = %+v", r)
	}
	ofAcme := strings.TrimSpace(c.ok("token", "attenuate", "--org", "acme"))
	c.ok("--token", ofAcme, "machine", "run", "--app", "web", "test/app")
	c.ok("--token", ofAcme, "app", "create", "mail")
	if apps := jsonOf[[]gondola.App](t, c.ok("app", "list", "--org", "acme", "--json")); len(apps) != 2 || apps[0].Name != "mail" || apps[1].Name != "web" {
		t.Errorf("apps of acme = %+v, want mail and web", apps)
	}
	if a := jsonOf[gondola.App](t, c.ok("app", "create", "blog", "--json")); a.Organization.Slug != gondola.Org {
		t.Errorf("an app by a token of every organisation = %+v, want it in %s", a, gondola.Org)
	}
}

func TestOrg_ListHasPersonalAndThoseWithApps(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	c.ok("app", "create", "web", "--org", "acme")
	orgs := jsonOf[[]gondola.OrgInfo](t, c.ok("org", "list", "--json"))
	if len(orgs) != 2 || orgs[0].Slug != "acme" || orgs[0].Apps != 1 || orgs[1].Slug != gondola.Org || orgs[1].Apps != 0 {
		t.Errorf("org list --json = %+v", orgs)
	}
	if table := c.ok("orgs", "list"); !strings.Contains(table, "ORGANISATION") || !strings.Contains(table, "acme") {
		t.Errorf("orgs list:\n%s", table)
	}
	if out := c.ok("app", "list", "--org", "personal", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("app list of personal = %s", out)
	}
}
