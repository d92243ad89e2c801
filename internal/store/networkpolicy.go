package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"gondola"
)

const networkPolicyMigration = `
CREATE TABLE network_policies (
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL,
	policy     TEXT NOT NULL,
	created_at INTEGER NOT NULL
);
CREATE INDEX network_policies_by_app ON network_policies (app);
`

// policedMigration also drops what older gondolas kept of Apps that are gone.
const policedMigration = `
CREATE TABLE policed ( -- where workers may have policies of an App, which may be gone
	network TEXT NOT NULL,
	app     TEXT NOT NULL,
	PRIMARY KEY (network, app)
) WITHOUT ROWID;
DELETE FROM network_policies WHERE app NOT IN (SELECT name FROM apps);
INSERT INTO policed SELECT n.name, a.name FROM apps a JOIN networks n ON n.id = a.network_id WHERE a.name IN (SELECT app FROM network_policies);
`

// Policed is where workers may have policies of an App.
type Policed struct {
	Network string
	App     gondola.AppName
}

// PutNetworkPolicy records a policy, and that workers may have it from now on: a new one where its id is empty. ErrNotFound if the App, or a policy of that id in it, is not there.
func (s *Server) PutNetworkPolicy(ctx context.Context, app gondola.AppName, p gondola.NetworkPolicy) (gondola.NetworkPolicy, error) {
	err := s.change(ctx, func(tx *sql.Tx) error {
		var known bool
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM apps WHERE name = ?)", app).Scan(&known); err != nil {
			return err
		}
		if !known {
			return appNotFound(app)
		}
		_, err := tx.Exec("INSERT INTO policed SELECT n.name, a.name FROM apps a JOIN networks n ON n.id = a.network_id WHERE a.name = ? ON CONFLICT DO NOTHING", app)
		if err != nil {
			return err
		}
		now, made := time.Now(), p.ID == ""
		if made {
			p.ID = "np_" + gondola.NewULID(now)
		}
		body, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if made {
			_, err = tx.Exec("INSERT INTO network_policies (id, app, policy, created_at) VALUES (?, ?, ?, ?)", p.ID, app, string(body), now.UnixMilli())
			return err
		}
		res, err := tx.Exec("UPDATE network_policies SET policy = ? WHERE id = ? AND app = ?", string(body), p.ID, app)
		return oneOf(res, err, app, p.ID)
	})
	return p, wrap(err, "record network policy %s of app %s", p.Name, app)
}

// DeleteNetworkPolicy removes a policy, or returns ErrNotFound. That workers may have it stays on record.
func (s *Server) DeleteNetworkPolicy(ctx context.Context, app gondola.AppName, id string) error {
	res, err := s.exec(ctx, "DELETE FROM network_policies WHERE id = ? AND app = ?", id, app)
	return wrap(oneOf(res, err, app, id), "delete network policy %s of app %s", id, app)
}

func oneOf(res sql.Result, err error, app gondola.AppName, id string) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return gondola.Errorf(gondola.ErrNotFound, "network policy not found: there is none with id %q in app %q", id, app)
}

// ListNetworkPolicies returns an App's policies, oldest first.
func (s *Server) ListNetworkPolicies(ctx context.Context, app gondola.AppName) ([]gondola.NetworkPolicy, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT policy FROM network_policies WHERE app = ? ORDER BY id", app)
	list, err := collect(rows, err, func(scan func(...any) error) (p gondola.NetworkPolicy, err error) {
		var body []byte
		if err := scan(&body); err != nil {
			return p, err
		}
		return p, json.Unmarshal(body, &p)
	})
	return list, wrap(err, "list network policies of app %s", app)
}

// AppsWithNetworkPolicies returns the Apps that have any.
func (s *Server) AppsWithNetworkPolicies(ctx context.Context) ([]gondola.AppName, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT DISTINCT app FROM network_policies ORDER BY app")
	apps, err := collect(rows, err, func(scan func(...any) error) (app gondola.AppName, err error) { return app, scan(&app) })
	return apps, wrap(err, "list apps with network policies")
}

// withoutPolicies is the condition for a row of policed that no policy on record is behind. An App of that name may be in another network now.
const withoutPolicies = `NOT EXISTS (SELECT 1 FROM network_policies r JOIN apps a ON a.name = r.app JOIN networks n ON n.id = a.network_id
	WHERE a.name = policed.app AND n.name = policed.network)`

// PolicedWithoutPolicies returns where workers may have policies that are not on record any more.
func (s *Server) PolicedWithoutPolicies(ctx context.Context) ([]Policed, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT network, app FROM policed WHERE "+withoutPolicies+" ORDER BY network, app")
	list, err := collect(rows, err, func(scan func(...any) error) (p Policed, err error) { return p, scan(&p.Network, &p.App) })
	return list, wrap(err, "list network policies that have ended")
}

// ForgetPoliced says that no worker has policies of an App in a network any more. It changes nothing where some are on record.
func (s *Server) ForgetPoliced(ctx context.Context, p Policed) error {
	_, err := s.exec(ctx, "DELETE FROM policed WHERE network = ? AND app = ? AND "+withoutPolicies, p.Network, p.App)
	return wrap(err, "forget that app %s has had network policies", p.App)
}
