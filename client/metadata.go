package client

import (
	"context"

	"gondola"
)

// metadataBody replaces or merges metadata, of a Version if one is named.
type metadataBody struct {
	Metadata map[string]*string `json:"metadata"`
	Version  gondola.Version    `json:"machine_version,omitempty"`
}

// Metadata returns the metadata of a Machine.
func (c *Client) Metadata(ctx context.Context, ref gondola.Ref) (values map[string]string, err error) {
	err = c.do(ctx, "GET", machine(ref, "metadata"), nil, nil, &values)
	return values, err
}

// SetMetadata implements gondola.Machines.
func (c *Client) SetMetadata(ctx context.Context, ref gondola.Ref, version gondola.Version, values map[string]*string) error {
	return c.do(ctx, "PATCH", machine(ref, "metadata"), nil, metadataBody{values, version}, nil)
}

// ReplaceMetadata makes values the whole metadata of a Machine. ErrPrecondition if version is set and stale.
func (c *Client) ReplaceMetadata(ctx context.Context, ref gondola.Ref, version gondola.Version, values map[string]string) error {
	body := metadataBody{map[string]*string{}, version}
	for k, v := range values {
		body.Metadata[k] = &v
	}
	return c.do(ctx, "PUT", machine(ref, "metadata"), nil, body, nil)
}

// MetadataValue returns one value of a Machine's metadata; ErrNotFound if the key is not there.
func (c *Client) MetadataValue(ctx context.Context, ref gondola.Ref, key string) (string, error) {
	var out struct {
		Value string `json:"value"`
	}
	err := c.do(ctx, "GET", machine(ref, "metadata", key), nil, nil, &out)
	return out.Value, err
}

// SetMetadataValue sets one value of a Machine's metadata; an empty one deletes its key.
func (c *Client) SetMetadataValue(ctx context.Context, ref gondola.Ref, key, value string) error {
	return c.do(ctx, "POST", machine(ref, "metadata", key), nil, map[string]string{"value": value}, nil)
}

// DeleteMetadataValue deletes one key of a Machine's metadata; one that is not there is no error.
func (c *Client) DeleteMetadataValue(ctx context.Context, ref gondola.Ref, key string) error {
	return c.do(ctx, "DELETE", machine(ref, "metadata", key), nil, nil, nil)
}
