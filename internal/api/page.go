package api

import (
	"bytes"
	_ "embed"
	"html/template"
	"maps"
	"slices"
	"strings"
)

//go:embed page.html
var pageText string

// pageTemplate is the document for people: one page without a script, whose parts unfold.
var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pageOperation is one operation as the page shows it.
type pageOperation struct {
	*docOperation
	Method, Path string
	Missing      bool // 501
	Body         string
	Answers      []pageAnswer
}

// Link is the component of the body: that of its elements, if it is a list.
func (o pageOperation) Link() string { return o.Body[strings.LastIndexByte(o.Body, ' ')+1:] }

// pageAnswer is a status and the type of its body.
type pageAnswer struct{ Status, Type string }

// pageType is a component.
type pageType struct {
	Name, Text string
	Fields     []pageField
}

type pageField struct{ Name, Type, Text string }

// group are the operations of one tag.
type group struct {
	Name       string
	Operations []pageOperation
}

// page prints the document for people.
func (d *document) page() ([]byte, error) {
	var groups []group
	for _, o := range d.order {
		at := slices.IndexFunc(groups, func(g group) bool { return g.Name == o.tag })
		if at < 0 {
			groups, at = append(groups, group{Name: o.tag}), len(groups)
		}
		op := d.Paths[o.path][strings.ToLower(o.method)]
		_, missing := op.Responses["501"]
		shown := pageOperation{docOperation: op, Method: o.method, Path: o.path, Missing: missing}
		if op.Body != nil {
			shown.Body = contentName(op.Body.Content)
		}
		for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
			shown.Answers = append(shown.Answers, pageAnswer{status, contentName(op.Responses[status].Content)})
		}
		groups[at].Operations = append(groups[at].Operations, shown)
	}
	var types []pageType
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		s := d.Components.Schemas[name]
		t := pageType{Name: name, Text: s.Description}
		for _, field := range s.order {
			p := s.Properties[field]
			t.Fields = append(t.Fields, pageField{field, p.String(), p.Description})
		}
		types = append(types, t)
	}
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, struct {
		Info   docInfo
		Groups []group
		Types  []pageType
	}{d.Info, groups, types})
	return b.Bytes(), err
}

// contentName is the type of a body.
func contentName(content map[string]docContent) string {
	for contentType, c := range content {
		if contentType == jsonType {
			return c.Schema.String()
		}
		return contentType
	}
	return ""
}

// String is the type in a word or two: "Machine", "list of string".
func (s *schema) String() string {
	switch {
	case s.Ref != "":
		return strings.TrimPrefix(s.Ref, componentPath)
	case len(s.AllOf) > 0:
		return s.AllOf[0].String()
	case len(s.OneOf) > 0:
		var names []string
		for _, o := range s.OneOf {
			names = append(names, o.String())
		}
		return strings.Join(names, " or ")
	case s.Items != nil:
		return "list of " + s.Items.String()
	case s.Values != nil:
		return "map of " + s.Values.String()
	case s.Type == "":
		return "anything"
	}
	return s.Type
}
