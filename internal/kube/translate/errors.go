package translate

import (
	"strings"

	"gondola"
)

// UnsupportedError lists what of a Pod cannot be carried out. It is a gondola.ErrUnsupported.
type UnsupportedError struct {
	Fields []string // paths, each with why where that is not plain: "spec.hostNetwork is not supported"
}

func (e *UnsupportedError) Error() string { return strings.Join(e.Fields, "; ") }

// Unwrap returns gondola.ErrUnsupported.
func (e *UnsupportedError) Unwrap() error { return gondola.ErrUnsupported }

// MissingError says that something which the Pod names is not there yet; it may appear. Exactly one of Container and Volume is set.
type MissingError struct {
	Container string // whose environment needs it
	Volume    string // whose contents need it
	Message   string // as a kubelet words it
}

func (e *MissingError) Error() string { return e.Message }

// Unwrap returns gondola.ErrNotFound.
func (e *MissingError) Unwrap() error { return gondola.ErrNotFound }
