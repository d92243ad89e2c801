package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"gondola"
)

// errorBody is the API's ErrorResponse. Its details are ours: the kind, exactly, and what every worker answered.
type errorBody struct {
	Error   string       `json:"error"`
	Message string       `json:"message,omitempty"` // about leases alone, where clients read it instead
	Code    string       `json:"code,omitempty"`    // likewise
	Status  string       `json:"status"`
	Details errorDetails `json:"details"`
}

type errorDetails struct {
	Kind     string            `json:"kind"`
	Refusals []gondola.Refusal `json:"refusals,omitempty"`
}

// statuses is the only map of error kinds to HTTP statuses (https://docs.machines.dev; prefixes and codes as Fly.io's API has them).
var statuses = []struct {
	kind   error
	code   int
	status string // of the body
	prefix string // of the text, as Connect's codes are printed
}{
	{gondola.ErrInvalid, http.StatusUnprocessableEntity, "unknown", ""},
	{gondola.ErrNotFound, http.StatusNotFound, "unknown", "not_found: "},
	{gondola.ErrNameTaken, http.StatusUnprocessableEntity, "name_taken", ""},
	{gondola.ErrConflict, http.StatusConflict, "unknown", "aborted: "},
	{gondola.ErrPrecondition, http.StatusPreconditionFailed, "unknown", "failed_precondition: "},
	{gondola.ErrCapacity, http.StatusUnprocessableEntity, "insufficient_capacity", ""},
	{gondola.ErrDeadline, http.StatusRequestTimeout, "unknown", "deadline_exceeded: "},
	{gondola.ErrUnauthorized, http.StatusUnauthorized, "unknown", ""},
	{gondola.ErrForbidden, http.StatusForbidden, "unknown", ""},
	{gondola.ErrUnsupported, http.StatusNotImplemented, "unknown", ""},
	{gondola.ErrUnavailable, http.StatusServiceUnavailable, "unknown", ""},
	{gondola.ErrRateLimited, http.StatusTooManyRequests, "unknown", ""},
	{gondola.ErrImage, http.StatusUnprocessableEntity, "unknown", ""},
}

// malformed is a request that could not be read: 400, where one that says something impossible is 422.
type malformed struct{ message string }

func (e *malformed) Error() string { return e.message }
func (e *malformed) Unwrap() error { return gondola.ErrInvalid }

// asMalformed is for calls of which the public API says 400 for what is 422 elsewhere.
func asMalformed(err error) error {
	if errors.Is(err, gondola.ErrInvalid) {
		return &malformed{err.Error()}
	}
	return err
}

func malformedf(format string, args ...any) error {
	return &malformed{fmt.Sprintf(format, args...)}
}

// noRoute is a path that this API does not have: 404 as anywhere, but told from a thing that is not there by its kind.
type noRoute struct{ method, path string }

func (e noRoute) Error() string { return e.method + " " + e.path + " is not part of this API" }
func (e noRoute) Unwrap() error { return gondola.ErrUnsupported }

// noRoom says that ErrCapacity came from the host of a Machine that exists: not a matter of placement, so 409 in the words that flyctl knows.
type noRoom struct{ error }

func (e noRoom) Unwrap() error { return e.error }

const noRoomText = "could not reserve resource for machine: "

// onExisting marks an error of a call about an existing Machine.
func onExisting(err error) error {
	if errors.Is(err, gondola.ErrCapacity) {
		return noRoom{err}
	}
	return err
}

// maxText bounds what an answer repeats of what was sent, in bytes.
const maxText = 1 << 10

// answerOf returns status and body for an error.
func answerOf(err error) (int, errorBody) {
	text := err.Error()
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		return http.StatusRequestEntityTooLarge, bodyOf(fmt.Sprintf("the body is larger than the %d bytes that this call takes", tooBig.Limit), gondola.ErrInvalid.Error())
	}
	for _, s := range statuses {
		if !errors.Is(err, s.kind) {
			continue
		}
		code, prefix := s.code, s.prefix
		if bad := (*malformed)(nil); errors.As(err, &bad) {
			code = http.StatusBadRequest
		}
		if errors.As(err, new(noRoute)) {
			code = http.StatusNotFound
		}
		body := errorBody{Error: text, Status: s.status, Details: errorDetails{s.kind.Error(), gondola.Refusals(err)}}
		if errors.As(err, new(noRoom)) {
			code, prefix, body.Status = http.StatusConflict, "aborted: ", "unknown"
			if !strings.HasPrefix(text, noRoomText) {
				prefix += noRoomText
			}
		}
		if errors.As(err, new(noDisk)) {
			code, prefix, body.Status = http.StatusBadRequest, noDiskText, "volume_placement_capacity"
		}
		if !strings.HasPrefix(text, prefix) && !strings.HasPrefix(text, "Could not find") {
			body.Error = prefix + text
		}
		if errors.As(err, new(aboutLease)) {
			body.Message, body.Code, body.Status = text, "invalid", "error"
		}
		return code, body
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return http.StatusRequestTimeout, bodyOf("deadline_exceeded: "+text, gondola.ErrDeadline.Error())
	}
	return http.StatusInternalServerError, bodyOf(text, "internal")
}

func bodyOf(text, kind string) errorBody {
	return errorBody{Error: text, Status: "unknown", Details: errorDetails{Kind: kind}}
}

func writeError(w http.ResponseWriter, err error) int {
	code, body := answerOf(err)
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if limited := (rateLimited{}); errors.As(err, &limited) {
		w.Header().Set("Retry-After", strconv.Itoa(limited.seconds()))
	}
	writeJSON(w, code, body)
	return code
}

// writeJSON sends v. It has been marshalled whole before the status goes out.
func writeJSON(w http.ResponseWriter, code int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be printed as JSON","status":"unknown"}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	w.Write(b)
	io.WriteString(w, "\n")
	return err
}
