package image

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"

	"gondola"
)

// denied says whether a registry wants other credentials.
func denied(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden)
}

// isDamaged says whether content did not match its digest, here or at the registry.
func isDamaged(err error) bool {
	// The library has no error value for what its verifying reader finds.
	return errors.Is(err, errDamaged) || strings.Contains(err.Error(), "error verifying")
}

// unpackError tells what keeps an image from being unpacked.
func unpackError(r reference, err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errDamaged):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return noSpace(r, err)
	}
	return gondola.Errorf(gondola.ErrImage, "image %s cannot be unpacked: %w; build and push it again", r.asked, err)
}

func noSpace(r reference, err error) error {
	return gondola.Errorf(gondola.ErrUnavailable, "no disk space for image %s: %w; run `gondola image prune` or free some", r.asked, err)
}

// explain turns what came of a pull into an error for the user.
func explain(r reference, err error) error {
	var known *gondola.Error
	var te *transport.Error
	switch {
	case errors.As(err, &known), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return noSpace(r, err)
	case denied(err):
		return gondola.Errorf(gondola.ErrImage, "registry %s denies access to image %s, or it does not exist: check the name, and give "+
			"credentials with imagePullSecrets or `docker login %s` on this host", r.registry(), r.asked, r.registry())
	case errors.As(err, &te) && te.StatusCode == http.StatusNotFound:
		return gondola.Errorf(gondola.ErrImage, "image %s does not exist in registry %s: check name and tag", r.asked, r.registry())
	case errors.As(err, &te) && te.StatusCode == http.StatusTooManyRequests:
		return gondola.Errorf(gondola.ErrUnavailable, "registry %s takes no more pulls from here for now (image %s): give credentials, set a "+
			"mirror for %s, or wait", r.registry(), r.asked, r.registry())
	case isDamaged(err):
		return gondola.Errorf(gondola.ErrUnavailable, "registry %s sent damaged content for image %s, none of it is used: try again, or push "+
			"the image again (%w)", r.registry(), r.asked, err)
	case errors.As(err, &te):
		return gondola.Errorf(gondola.ErrUnavailable, "registry %s does not serve image %s: %w", r.registry(), r.asked, err)
	}
	return gondola.Errorf(gondola.ErrUnavailable, "registry %s cannot be reached for image %s: %w; check the network, set a mirror, or run "+
		"`gondola image import`", r.registry(), r.asked, err)
}
