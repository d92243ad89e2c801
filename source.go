package gondola

import "embed"

// Source is the text of this package, file by file, tests included: internal/api takes the comments of types and fields from it for the OpenAPI
// document, so that the manual of the API is the comments and cannot be older than the code.
//
//go:embed *.go
var Source embed.FS
