package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// impatient ends an answer of which nothing comes any more. How long the headers may take is the transport's own business.
type impatient struct {
	next    http.RoundTripper
	silence time.Duration
}

func (t impatient) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	silent := fmt.Errorf("%s has sent nothing for %s", req.URL.Host, t.silence)
	resp.Body = &impatientBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, silence: t.silence, silent: silent}
	return resp, nil
}

// impatientBody counts only the time in which somebody waits for it: who reads may be slow.
type impatientBody struct {
	io.ReadCloser
	ctx     context.Context // of the request
	cancel  context.CancelCauseFunc
	silence time.Duration
	silent  error
}

func (b *impatientBody) Read(p []byte) (int, error) {
	late := time.AfterFunc(b.silence, func() { b.cancel(b.silent) })
	n, err := b.ReadCloser.Read(p)
	late.Stop()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == b.silent {
		err = b.silent
	}
	return n, err
}

func (b *impatientBody) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
