package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gondola"
)

// decode reads a JSON body. Unknown fields are accepted, as the wire's rule is; an empty body leaves v as it is. What is not JSON, or not of
// the shape, is malformed and the message says where; it never repeats the body.
func (c *call) decode(v any) error {
	b, err := io.ReadAll(c.Body)
	if err != nil {
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			return err
		}
		return malformedf("the body could not be read to its end")
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	err = json.Unmarshal(b, v)
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		line, column := position(b, syntax.Offset)
		return malformedf("the body is not JSON: line %d, column %d: %s", line, column, strings.TrimPrefix(syntax.Error(), "json: "))
	case errors.As(err, &wrong):
		line, column := position(b, wrong.Offset)
		return malformedf("the body does not fit: line %d, column %d: %s must not be a JSON %s: use %s", line, column, fieldName(wrong.Field), told(wrong.Value), wanted(wrong.Type))
	default:
		return malformedf("the body does not fit: %s", err)
	}
}

func fieldName(f string) string {
	if f == "" {
		return "the whole"
	}
	return f
}

// told is the value as an error may repeat it: a number as it is, of all else only the kind.
func told(value string) string {
	if len(value) > 40 {
		return value[:40] + "…"
	}
	return value
}

// wanted says what a field of a type takes.
func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number from %d to %d", int64(-1)<<(t.Bits()-1), uint64(1)<<(t.Bits()-1)-1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", ^uint64(0)>>(64-t.Bits()))
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string in base64"
		}
		return "an array"
	default:
		return "an object"
	}
}

// position returns line and column, from 1, of the last of so many bytes read.
func position(b []byte, offset int64) (line, column int) {
	read := b[:min(max(offset, 0), int64(len(b)))]
	line = bytes.Count(read, []byte("\n")) + 1
	return line, max(len(read)-bytes.LastIndexByte(read, '\n')-1, 1)
}

func (c *call) query(name string) string { return c.URL.Query().Get(name) }

// flag reads a boolean of the query; absent is false and bare is true.
func (c *call) flag(name string) (bool, error) {
	q := c.URL.Query()
	if !q.Has(name) {
		return false, nil
	}
	v := q.Get(name)
	if v == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, malformedf("query parameter %s=%q: use true or false", name, v)
	}
	return b, nil
}

// number reads a number that is not negative; absent is zero.
func (c *call) number(name string) (int64, error) {
	v := c.query(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, malformedf("query parameter %s=%q: use a number, 0 or more", name, v)
	}
	return n, nil
}

// seconds reads a duration: "10s", or a number of seconds; absent is nil.
func (c *call) seconds(name string) (*gondola.Duration, error) {
	v := c.query(name)
	if v == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(v)
	if n, nerr := strconv.ParseInt(v, 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return nil, malformedf("query parameter %s=%q: use a duration such as 10s", name, v)
	}
	out := gondola.Duration(d)
	return &out, nil
}

// list reads a parameter that may be repeated and may be a comma list.
func (c *call) list(name string) (values []string) {
	for _, v := range c.URL.Query()[name] {
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				values = append(values, s)
			}
		}
	}
	return values
}

// metadata reads the parameters metadata.{key}=value.
func (c *call) metadata() map[string]string {
	var m map[string]string
	for name, values := range c.URL.Query() {
		if key, ok := strings.CutPrefix(name, "metadata."); ok && len(values) > 0 {
			if m == nil {
				m = map[string]string{}
			}
			m[key] = values[0]
		}
	}
	return m
}

// place is where something stands in a list: lists are sorted by the time and then by the id, or by the id alone.
type place struct {
	at int64 // Unix nanoseconds; if zero, the id alone counts
	id string
}

func (p place) compare(o place) int { return cmp.Or(cmp.Compare(p.at, o.at), cmp.Compare(p.id, o.id)) }

func placeOf(created time.Time, id string) place { return place{created.UnixNano(), id} }

// page cuts a list to what the parameters limit and cursor ask for, and sets the header that leads to the next page. The cursor is the place of the
// last element seen, so that a list goes on behind it whatever has come or gone.
func page[T any](c *call, all []T, of func(T) place) (part []T, next string, err error) {
	limit, err := c.number("limit")
	if err != nil {
		return nil, "", err
	}
	from := 0
	if cursor := c.query("cursor"); cursor != "" {
		at, id, _ := strings.Cut(cursor, ".")
		n, err := strconv.ParseInt(at, 10, 64)
		if err != nil || n < 0 {
			return nil, "", malformedf("query parameter cursor=%q: use the fly-next-cursor of the page before", cursor)
		}
		from, _ = slices.BinarySearchFunc(all, place{n, id}, func(v T, last place) int {
			if of(v).compare(last) <= 0 {
				return -1
			}
			return 1
		})
	}
	part = all[from:]
	if limit > 0 && int64(len(part)) > limit {
		part = part[:limit]
		last := of(part[limit-1])
		next = fmt.Sprintf("%d.%s", last.at, last.id)
		c.w.Header().Set("fly-next-cursor", next)
	}
	return part, next, nil
}
