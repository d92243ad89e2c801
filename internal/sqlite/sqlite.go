// Package sqlite opens SQLite databases on connections that parse a statement the first time only: parsing costs more than running what the
// platform's stores and a cluster's datastore run.
package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"

	"modernc.org/sqlite"
)

// mostKept is how many statements a connection keeps. A program's own are some dozens, but kine writes the limit of a list into its text.
const mostKept = 64

// Open opens the database that a URL of the driver modernc.org/sqlite names (https://pkg.go.dev/modernc.org/sqlite#Driver.Open); of its parameters
// _txlock has no effect. A transaction may write, and waits for others that do, unless it is begun as ReadOnly: then it sees one moment.
func Open(url string) (*sql.DB, error) {
	c, err := sqlite.NewConnector(url)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(&connector{c}), nil
}

// Code returns SQLite's result code (https://sqlite.org/rescode.html#primary_result_codes, without what an extended one adds) of an error that comes
// from it; false: it does not.
func Code(err error) (int, bool) {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.Code() & 0xff, true
}

type connector struct{ driver.Connector }

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	raw, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	inner, ok := raw.(sqliteConn)
	if !ok {
		raw.Close()
		return nil, fmt.Errorf("the SQLite driver's %T cannot do what a connection needs to", raw)
	}
	return &conn{sqliteConn: inner, kept: map[string]*statement{}}, nil
}

// sqliteConn is what the driver's connections can do.
type sqliteConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// conn is a connection that keeps its statements. As every driver.Conn it is used by one goroutine at a time; several results may be open at
// once, each of a statement of its own.
type conn struct {
	sqliteConn
	kept map[string]*statement // by text; those that are not in use
}

// statement is parsed.
type statement struct {
	driver.Stmt
	text string
}

// take returns the statement, for whoever calls to use alone until done. A parameter that a column is compared with is written as +?, the same
// value: of a bare one SQLite's planner wants to know whether it is a small number, and parses the statement again whenever parameters have been
// cleared, which the driver does after every run.
func (c *conn) take(ctx context.Context, text string) (*statement, error) {
	if s, ok := c.kept[text]; ok {
		delete(c.kept, text)
		return s, nil
	}
	s, err := c.PrepareContext(ctx, strings.ReplaceAll(text, "= ?", "= +?"))
	if err != nil {
		return nil, err
	}
	return &statement{s, text}, nil
}

// done keeps a statement for the next who needs it. One that failed is not: what state it is in is nobody's business then.
func (c *conn) done(s *statement, err error) {
	if _, other := c.kept[s.text]; err != nil || other {
		s.Close()
		return
	}
	for text, old := range c.kept {
		if len(c.kept) < mostKept {
			break
		}
		old.Close()
		delete(c.kept, text)
	}
	c.kept[s.text] = s
}

// ExecContext runs a statement to its end.
func (c *conn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.take(ctx, text)
	if err != nil {
		return nil, err
	}
	r, err := s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	c.done(s, err)
	return r, err
}

// QueryContext begins a statement whose rows are read one by one.
func (c *conn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.take(ctx, text)
	if err != nil {
		return nil, err
	}
	r, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		c.done(s, err)
		return nil, err
	}
	return &rows{Rows: r, conn: c, statement: s}, nil
}

// BeginTx begins a transaction. One that may write takes the lock at once: if it found out later it would fail where another had written since,
// instead of waiting.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	begin := "BEGIN IMMEDIATE"
	if opts.ReadOnly {
		begin = "BEGIN"
	}
	if _, err := c.ExecContext(ctx, begin, nil); err != nil {
		t := tx{c}
		t.Rollback() // it may have begun all the same, when ctx ended in the last moment
		return nil, err
	}
	return tx{c}, nil
}

// Close ends the connection, its statements first.
func (c *conn) Close() error {
	for text, s := range c.kept {
		s.Close()
		delete(c.kept, text)
	}
	return c.sqliteConn.Close()
}

// tx is the transaction that a connection is in.
type tx struct{ conn *conn }

// Commit returns nil once all that was written is on disk; else nothing of it is.
func (t tx) Commit() error {
	_, err := t.conn.ExecContext(context.Background(), "COMMIT", nil)
	if err != nil {
		t.Rollback() // COMMIT may leave the transaction open
	}
	return err
}

func (t tx) Rollback() error {
	_, err := t.conn.ExecContext(context.Background(), "ROLLBACK", nil)
	return err
}

// rows give their statement back when they are closed.
type rows struct {
	driver.Rows
	conn      *conn
	statement *statement // nil: given back
	failed    error
}

func (r *rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err != nil && err != io.EOF {
		r.failed = err
	}
	return err
}

func (r *rows) Close() error {
	err := r.Rows.Close()
	if r.statement != nil {
		r.conn.done(r.statement, cmp.Or(r.failed, err))
		r.statement = nil
	}
	return err
}
