package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"gondola"
	"gondola/internal/stream"
)

// answer is the error body of the API. Some of Fly.io's handlers say message, not error.
type answer struct {
	Error   string `json:"error"`
	Message string `json:"message"`
	Status  string `json:"status"`
	Details struct {
		Kind     string            `json:"kind"` // Gondola's alone
		Refusals []gondola.Refusal `json:"refusals"`
	} `json:"details"`
}

var kinds = []error{gondola.ErrInvalid, gondola.ErrNotFound, gondola.ErrNameTaken, gondola.ErrConflict, gondola.ErrPrecondition, gondola.ErrCapacity,
	gondola.ErrDeadline, gondola.ErrUnauthorized, gondola.ErrForbidden, gondola.ErrUnsupported, gondola.ErrUnavailable, gondola.ErrRateLimited, gondola.ErrImage}

// prefixes are put before texts on the wire; they say what the kind does.
var prefixes = []string{"not_found: ", "failed_precondition: ", "deadline_exceeded: ", "aborted: ", "no capacity: "}

// errorOf turns a status and body into an error of the right kind.
func errorOf(code int, path string, body []byte) error {
	var a answer
	if json.Unmarshal(body, &a) != nil {
		a = answer{} // details of another shape, or no JSON at all
		var plain struct{ Error, Message, Status string }
		if json.Unmarshal(body, &plain) == nil {
			a.Error, a.Message, a.Status = plain.Error, plain.Message, plain.Status
		}
	}
	text := a.Message
	if text == "" {
		text = a.Error
	}
	kind := kindOf(code, path, a, text)
	for _, p := range prefixes {
		if rest, cut := strings.CutPrefix(text, p); cut {
			text = rest
			break
		}
	}
	if text == "" {
		text = strings.TrimSpace(http.StatusText(code) + " " + string(body[:min(len(body), 200)]))
	}
	if kind == nil {
		return errors.New("server: " + text)
	}
	return &gondola.Error{Kind: kind, Message: text, Refusals: a.Details.Refusals}
}

// kindOf is what Gondola names, or else what status and text of Fly.io's API mean.
func kindOf(code int, path string, a answer, text string) error {
	for _, k := range kinds {
		if k.Error() == a.Details.Kind {
			return k
		}
	}
	if a.Details.Kind != "" {
		return nil // a fault of the server
	}
	if a.Status == "insufficient_capacity" || a.Status == "volume_placement_capacity" || strings.HasPrefix(text, "insufficient resources") {
		return gondola.ErrCapacity
	}
	switch code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		if strings.HasPrefix(text, "no capacity") { // for a volume
			return gondola.ErrCapacity
		}
		return gondola.ErrInvalid
	case http.StatusUnauthorized:
		return gondola.ErrUnauthorized
	case http.StatusForbidden:
		return gondola.ErrForbidden
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		if path == "/v1/gondola" || strings.HasPrefix(path, "/v1/gondola/") {
			return gondola.ErrUnsupported
		}
		return gondola.ErrNotFound
	case http.StatusRequestTimeout:
		return gondola.ErrDeadline
	case http.StatusConflict:
		if strings.Contains(text, "could not reserve resource") || strings.Contains(text, "no capacity") {
			return gondola.ErrCapacity
		}
		return gondola.ErrConflict
	case http.StatusPreconditionFailed:
		return gondola.ErrPrecondition
	case http.StatusUnprocessableEntity:
		if a.Status == "name_taken" {
			return gondola.ErrNameTaken
		}
		return gondola.ErrInvalid
	case http.StatusNotImplemented:
		return gondola.ErrUnsupported
	case http.StatusTooManyRequests:
		return gondola.ErrRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return gondola.ErrUnavailable
	}
	return nil
}

// streamError turns the refusal of a stream into the error it means.
func streamError(path string, err error) error {
	var refused *stream.StatusError
	if errors.As(err, &refused) {
		return errorOf(refused.Code, path, refused.Body)
	}
	return err
}
