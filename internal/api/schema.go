package api

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"gondola"
)

// schema is an OpenAPI 3.0 schema object, as much of it as Go types need.
type schema struct {
	Ref         string             `json:"$ref,omitempty"`
	Type        string             `json:"type,omitempty"` // none: anything
	Format      string             `json:"format,omitempty"`
	Description string             `json:"description,omitempty"`
	Nullable    bool               `json:"nullable,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Values      *schema            `json:"additionalProperties,omitempty"`
	OneOf       []*schema          `json:"oneOf,omitempty"`
	AllOf       []*schema          `json:"allOf,omitempty"` // around a reference that has a description beside it
	Properties  map[string]*schema `json:"properties,omitempty"`

	order []string // of Properties, as the Go type has them
}

const componentPath = "#/components/schemas/"

// schemas collects the components of a document from Go types.
type schemas struct {
	comments   comments
	components map[string]*schema
	types      map[string]reflect.Type // of each component
}

// written are the schemas of types that print themselves.
var written = map[reflect.Type]schema{
	reflect.TypeFor[time.Time]():        {Type: "string", Format: "date-time"},
	reflect.TypeFor[gondola.Duration](): {OneOf: []*schema{{Type: "string", Description: `as Go prints it: "15s"`}, {Type: "integer", Description: "nanoseconds; in requests only"}}},
	reflect.TypeFor[gondola.Signal]():   {OneOf: []*schema{{Type: "string", Description: `"SIGTERM", in requests also "TERM"`}, {Type: "integer", Description: "in requests only"}}},
	reflect.TypeFor[gondola.Autostop](): {OneOf: []*schema{{Type: "boolean"}, {Type: "string", Enum: []string{"off", "stop", "suspend"}}}},
	reflect.TypeFor[gondola.State]():    {Type: "string", Enum: stateNames()},
	reflect.TypeFor[json.RawMessage]():  {},
}

func stateNames() (names []string) {
	for _, s := range gondola.States() {
		names = append(names, string(s))
	}
	return names
}

// known are fields that Go keeps as they were sent, and what is known of them.
var known = map[string]reflect.Type{
	"Service.Ports": reflect.TypeFor[[]gondola.ServicePort](),
}

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

// of returns the schema of a Go type, and notes the components that it needs.
func (s *schemas) of(t reflect.Type) *schema {
	if w, ok := written[t]; ok {
		return &w
	}
	if t.Kind() != reflect.Pointer && t.Implements(textMarshaler) {
		return &schema{Type: "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Int64, reflect.Uint64:
		return &schema{Type: "integer", Format: "int64"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return &schema{Type: "integer"}
	case reflect.Float64, reflect.Float32:
		return &schema{Type: "number"}
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Interface:
		return &schema{}
	case reflect.Map:
		return &schema{Type: "object", Values: s.of(t.Elem())}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return &schema{Type: "string", Format: "byte"}
		}
		return &schema{Type: "array", Items: s.of(t.Elem())}
	case reflect.Struct:
		return s.component(t)
	default:
		panic(fmt.Sprintf("api: %s has no JSON form", t))
	}
}

// component returns a reference to the schema of a struct.
func (s *schemas) component(t reflect.Type) *schema {
	name := componentName(t)
	if before, there := s.types[name]; there && before != t {
		panic(fmt.Sprintf("api: %s and %s would both be component %s", before, t, name))
	} else if !there {
		object := &schema{Type: "object", Description: s.comments[t.Name()], Properties: map[string]*schema{}}
		s.types[name], s.components[name] = t, object // first, since types may hold themselves
		s.fields(object, t)
	}
	return &schema{Ref: componentPath + name}
}

// componentName is the Go name with a capital; that of a generic type has its argument behind it.
func componentName(t reflect.Type) string {
	name, argument, generic := strings.Cut(strings.TrimSuffix(t.Name(), "]"), "[")
	if generic {
		argument = argument[strings.LastIndexByte(argument, '.')+1:]
	}
	both := name + argument
	return string(unicode.ToUpper(rune(both[0]))) + both[1:]
}

// fields adds the properties of a struct, those of embedded ones too.
func (s *schemas) fields(object *schema, t reflect.Type) {
	for f := range fieldsOf(t) {
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			s.fields(object, f.Type)
			continue
		}
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		full := t.Name() + "." + f.Name
		what := f.Type
		if k, ok := known[full]; ok {
			what = k
		}
		property := s.of(what)
		property.Nullable = f.Type.Kind() == reflect.Pointer && !strings.Contains(options, "omitempty")
		if text := s.comments[full]; text != "" || property.Nullable {
			if property.Ref != "" { // what stands beside a $ref does not count
				property = &schema{AllOf: []*schema{{Ref: property.Ref}}, Nullable: property.Nullable}
			}
			property.Description = text
		}
		if !slices.Contains(object.order, name) {
			object.order = append(object.order, name)
		}
		object.Properties[name] = property
	}
}

func fieldsOf(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
