package gondolatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// Outside starts a platform where there is no test: for documented examples and for measuring. end takes it away again.
func Outside(o Options) (p *Platform, end func() error, err error) {
	s := &standIn{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer func() {
		if failed := recover(); failed == s {
			err = errors.Join(s.errs, s.end())
		} else if failed != nil {
			panic(failed)
		}
	}()
	return New(s, o), s.end, nil
}

// standIn is as much of a testing.TB as a Platform needs.
type standIn struct {
	testing.TB // nil: what is not below is not called

	ctx      context.Context
	cancel   context.CancelFunc
	cleanups []func()
	errs     error
}

func (s *standIn) Helper()                  {}
func (s *standIn) Context() context.Context { return s.ctx }
func (s *standIn) Cleanup(f func())         { s.cleanups = append(s.cleanups, f) }
func (s *standIn) Errorf(format string, args ...any) {
	s.errs = errors.Join(s.errs, fmt.Errorf(format, args...))
}
func (s *standIn) Fatal(args ...any)                 { s.Errorf("%s", fmt.Sprint(args...)); panic(s) }
func (s *standIn) Fatalf(format string, args ...any) { s.Errorf(format, args...); panic(s) }

func (s *standIn) TempDir() string {
	dir, err := os.MkdirTemp("", "gondolatest-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (s *standIn) end() error {
	s.cancel()
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	s.cleanups = nil
	return s.errs
}
