package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"gondola"
)

// CreateApp records an App and, where its network is new, gives that a number. ErrInvalid for a name that cannot be, ErrNameTaken for one
// that is, ErrForbidden for a network in which another organisation has Apps: networks are what keeps organisations apart.
func (s *Server) CreateApp(ctx context.Context, app gondola.NewApp) (gondola.App, error) {
	if err := app.Name.Validate(); err != nil {
		return gondola.App{}, err
	}
	org, network := app.Org, app.Network
	if org == "" {
		org = gondola.Org
	}
	if err := gondola.ValidateOrg("org_slug", org); err != nil {
		return gondola.App{}, err
	}
	if network == "" {
		network = gondola.DefaultNetwork
		if org != gondola.Org {
			network += "-" + org
		}
	}
	if err := gondola.ValidateNetwork(network); err != nil {
		return gondola.App{}, err
	}
	err := s.change(ctx, func(tx *sql.Tx) error {
		var taken bool
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM apps WHERE name = ?)", app.Name).Scan(&taken); err != nil {
			return err
		}
		if taken {
			return gondola.Errorf(gondola.ErrNameTaken, "app name %q has already been taken: choose another", app.Name)
		}
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM apps a JOIN networks n ON n.id = a.network_id WHERE n.name = ? AND a.org <> ?)", network, org).Scan(&taken); err != nil {
			return err
		}
		if taken {
			return gondola.Errorf(gondola.ErrForbidden, "network %q belongs to another organisation: leave it out or choose another", network)
		}
		if _, err := tx.Exec("INSERT INTO networks (name) VALUES (?) ON CONFLICT DO NOTHING", network); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO apps (name, id, org, network_id, created_at) SELECT ?, ?, ?, id, ? FROM networks WHERE name = ?",
			app.Name, string(gondola.NewMachineID()), org, time.Now().UnixMilli(), network)
		return err
	})
	if err != nil {
		return gondola.App{}, wrap(err, "create app %s", app.Name)
	}
	return s.App(ctx, app.Name)
}

const selectApps = `SELECT a.name, a.id, a.org, n.name, n.id, a.created_at,
	(SELECT count(*) FROM machines m WHERE m.app = a.name AND m.removed_at IS NULL),
	(SELECT count(*) FROM volumes v WHERE v.app = a.name AND v.removed_at IS NULL AND v.id LIKE 'vol_%')
	FROM apps a JOIN networks n ON n.id = a.network_id`

func scanApp(scan func(...any) error) (gondola.App, error) {
	var a gondola.App
	var org string
	var created int64
	if err := scan(&a.Name, &a.ID, &org, &a.Network, &a.NetworkID, &created, &a.MachineCount, &a.VolumeCount); err != nil {
		return a, err
	}
	a.Organization = gondola.Organization{Name: org, Slug: org}
	a.CreatedAt = time.UnixMilli(created).UTC()
	a.Status = "pending"
	if a.MachineCount > 0 {
		a.Status = "deployed"
	}
	return a, nil
}

// App returns one App, or ErrNotFound.
func (s *Server) App(ctx context.Context, name gondola.AppName) (gondola.App, error) {
	a, err := scanApp(s.read.QueryRowContext(ctx, selectApps+" WHERE a.name = ?", name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return gondola.App{}, appNotFound(name)
	}
	if err != nil {
		return gondola.App{}, wrap(err, "read app %s", name)
	}
	return a, nil
}

// ListApps returns the Apps of an organisation, or all where org is empty, by name.
func (s *Server) ListApps(ctx context.Context, org string) ([]gondola.App, error) {
	rows, err := s.read.QueryContext(ctx, selectApps+" WHERE ? = '' OR a.org = ? ORDER BY a.name", org, org)
	apps, err := collect(rows, err, scanApp)
	if err != nil {
		return nil, wrap(err, "list apps")
	}
	return apps, nil
}

// DeleteApp removes the App's row with its secrets and network policies, and takes its Machines out of the index as Remove does; whoever calls has destroyed them before. Its
// network keeps its number. ErrNotFound if there is no such App.
func (s *Server) DeleteApp(ctx context.Context, name gondola.AppName) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec("DELETE FROM apps WHERE name = ?", name)
		if err != nil {
			return err
		}
		if n, _ := res.RowsAffected(); n == 0 {
			return appNotFound(name)
		}
		if _, err := tx.Exec("DELETE FROM secrets WHERE app = ?", name); err != nil {
			return err
		}
		if _, err := tx.Exec("DELETE FROM network_policies WHERE app = ?", name); err != nil {
			return err
		}
		if _, err = tx.Exec("UPDATE machines SET removed_at = ? WHERE app = ? AND removed_at IS NULL", time.Now().UnixMilli(), name); err != nil {
			return err
		}
		_, err = tx.Exec("UPDATE volumes SET removed_at = ? WHERE app = ? AND removed_at IS NULL", time.Now().UnixMilli(), name)
		return err
	})
	return wrap(err, "delete app %s", name)
}

func appNotFound(name gondola.AppName) error {
	return gondola.Errorf(gondola.ErrNotFound, "Could not find App %q", name) // Fly.io's words; flyctl and fly-go show them
}

// wrap says what was being done, but leaves errors alone that already speak to a user.
func wrap(err error, format string, args ...any) error {
	var told *gondola.Error
	if err == nil || errors.As(err, &told) {
		return err
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
