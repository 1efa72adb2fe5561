// Package doccheck holds the documentation against the tree: the tests that its
// coverage tables name exist, and its links lead somewhere. It reads sources and
// runs nothing.
package doccheck

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Tests are the Test and Fuzz functions of a tree, as "folder.Name" with the
// folder relative to root, and as "Name".
func Tests(root string) (map[string]bool, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || strings.HasPrefix(name, ".") && path != root) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
				found[filepath.ToSlash(dir)+"."+fn.Name.Name], found[fn.Name.Name] = true, true
			}
		}
		return nil
	})
	return found, err
}

// Row is one row of a coverage table:
//
//	| section | requirement | tests, or "not implemented: reason" |
type Row struct {
	File    string // relative to the root
	Line    int
	Section string
	Tests   []string // "folder.Name", or "Name" for one of any folder
	Missing string   // the reason; empty when Tests is not
}

var (
	testName = regexp.MustCompile("`((?:[A-Za-z0-9_/]+\\.)?(?:Test|Fuzz)[A-Za-z0-9_]*)`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// notImplemented begins the last cell of a row that has no test.
const notImplemented = "not implemented:"

// Rows reads the coverage tables of a page: those whose last column is headed
// "test". Faults are rows that name neither a test nor a reason.
func Rows(file, text string) (rows []Row, faults []string) {
	inside := false
	for i, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if !strings.HasPrefix(l, "|") {
			inside = false
			continue
		}
		cells := strings.Split(strings.Trim(l, "|"), "|")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		last := cells[len(cells)-1]
		switch {
		case last == "test":
			inside = true
			continue
		case !inside || strings.HasPrefix(last, "---"):
			continue
		case len(cells) < 2:
			faults = append(faults, fmt.Sprintf("%s:%d: a row has at least 2 cells, found %d", file, i+1, len(cells)))
			continue
		}
		r := Row{File: file, Line: i + 1, Section: cells[0]}
		for _, m := range testName.FindAllStringSubmatch(last, -1) {
			r.Tests = append(r.Tests, m[1])
		}
		if len(r.Tests) == 0 {
			reason, ok := strings.CutPrefix(last, notImplemented)
			if r.Missing = strings.TrimSpace(reason); !ok || r.Missing == "" {
				faults = append(faults, fmt.Sprintf("%s:%d: the last cell names `folder.TestName` or says %q with the reason, found %q", file, i+1, notImplemented, last))
				continue
			}
		}
		rows = append(rows, r)
	}
	return rows, faults
}

// Links finds links in a page to files and headings of the tree that are not
// there.
func Links(root, file, text string) (faults []string) {
	for i, l := range strings.Split(text, "\n") {
		for _, m := range link.FindAllStringSubmatch(l, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			page := text
			if target != "" {
				path := filepath.Join(root, filepath.Dir(file), filepath.FromSlash(target))
				info, err := os.Stat(path)
				if err != nil {
					faults = append(faults, fmt.Sprintf("%s:%d: the link to %s leads nowhere", file, i+1, m[1]))
					continue
				}
				if anchor == "" || info.IsDir() {
					continue
				}
				b, err := os.ReadFile(path)
				if err != nil {
					faults = append(faults, fmt.Sprintf("%s:%d: %v", file, i+1, err))
					continue
				}
				page = string(b)
			}
			if anchor != "" && !headings(page)[anchor] {
				faults = append(faults, fmt.Sprintf("%s:%d: no heading for the link to %s", file, i+1, m[1]))
			}
		}
	}
	return faults
}

// headings are the anchors that a renderer makes of a page's headings.
func headings(text string) map[string]bool {
	found := map[string]bool{}
	for _, l := range strings.Split(text, "\n") {
		title := strings.TrimLeft(l, "#")
		if title == l || !strings.HasPrefix(title, " ") {
			continue
		}
		var b strings.Builder
		for _, c := range strings.ToLower(strings.TrimSpace(title)) {
			switch {
			case c == ' ':
				b.WriteByte('-')
			case c == '-' || c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c > 127:
				b.WriteRune(c)
			}
		}
		found[b.String()] = true
	}
	return found
}
