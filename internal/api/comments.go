package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
)

// comments are what a package's source says of its types ("Machine") and their fields ("Machine.State").
type comments map[string]string

// readComments parses the files of one package, without its tests.
func readComments(source fs.FS) (comments, error) {
	names, err := fs.Glob(source, "*.go")
	if err != nil {
		return nil, err
	}
	out, files := comments{}, token.NewFileSet()
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := fs.ReadFile(source, name)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(files, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("comments of %s: %w", name, err)
		}
		out.read(file)
	}
	return out, nil
}

func (c comments) read(file *ast.File) {
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.TYPE {
			continue
		}
		for _, s := range decl.Specs {
			spec := s.(*ast.TypeSpec)
			c.set(spec.Name.Name, spec.Doc, decl.Doc)
			if fields, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range fields.Fields.List {
					for _, name := range f.Names {
						c.set(spec.Name.Name+"."+name.Name, f.Doc, f.Comment)
					}
				}
			}
		}
	}
}

// set notes the first comment that there is, as one line.
func (c comments) set(name string, groups ...*ast.CommentGroup) {
	for _, g := range groups {
		if text := strings.Join(strings.Fields(g.Text()), " "); text != "" {
			c[name] = text
			return
		}
	}
}
