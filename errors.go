package gondola

import (
	"errors"
	"fmt"
)

// Kinds of error. Callers branch on them with errors.Is, never on text; only internal/api turns them into HTTP statuses.
var (
	ErrInvalid      = errors.New("invalid")             // the request itself is wrong; the message names the field
	ErrNotFound     = errors.New("not found")           // no such App, Machine, image or region
	ErrNameTaken    = errors.New("name taken")          // an App or Machine of this name exists
	ErrConflict     = errors.New("conflict")            // somebody else changed or holds it (current_version, lease)
	ErrPrecondition = errors.New("failed precondition") // not possible from the present state
	ErrCapacity     = errors.New("insufficient capacity")
	ErrDeadline     = errors.New("deadline exceeded") // the wait or request ran out of time; what was asked may still happen
	ErrUnauthorized = errors.New("unauthorized")      // no token, or not a valid one
	ErrForbidden    = errors.New("forbidden")         // the token does not reach so far
	ErrUnsupported  = errors.New("unsupported")       // this server, driver or kernel cannot do it
	ErrUnavailable  = errors.New("unavailable")       // a part that is needed does not answer right now
	ErrRateLimited  = errors.New("rate limited")      // too many requests of a kind in a short time; nothing was done, later it may be
	ErrImage        = errors.New("image")             // the image does not exist, cannot be read or is not an image
)

// Error is an error with a kind and, where a market refused, the reason of every worker that was asked.
type Error struct {
	Kind     error     // one of the kinds above
	Message  string    // for the user: names the thing and the way out
	Refusals []Refusal // one per worker asked, only with ErrCapacity
}

// Errorf returns an Error of the given kind; %w in the format is honoured for the message only.
func Errorf(kind error, format string, args ...any) error {
	return &Error{Kind: kind, Message: fmt.Errorf(format, args...).Error()}
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind, so that errors.Is(err, ErrCapacity) holds.
func (e *Error) Unwrap() error { return e.Kind }

// Refusals returns the refusals that err carries, nil if none.
func Refusals(err error) []Refusal {
	var e *Error
	if errors.As(err, &e) {
		return e.Refusals
	}
	return nil
}
