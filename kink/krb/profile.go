package krb

import (
	"fmt"
	"path"
	"sort"
	"strings"
)

// Caps on krb5.conf and what it includes.
const (
	maxProfile      = 1 << 20 // octets of a file
	maxProfileFiles = 64
	maxProfileDepth = 8 // of nested sections, and of includes
	maxProfileNodes = 20000
)

// files reads krb5.conf and what it includes.
type files interface {
	Read(name string, limit int) ([]byte, error)
	List(dir string) ([]string, error)
}

// profile is a section of krb5.conf: relations and sections within, in order.
type profile struct {
	nodes []profileNode
	// final: what comes from files read later does not count.
	final bool
}

type profileNode struct {
	name  string
	value string
	sub   *profile // nil: a relation
}

// profileReader reads files into one profile.
type profileReader struct {
	fs    files
	root  *profile
	files int
	nodes int
	// notes are what is not understood and left out.
	notes []string
}

// read reads one file: MIT's profile format, in which Heimdal's is contained.
//
//	[section]           [section]* when later files must not add to it
//	tag = value         a value may be in double quotes with \n, \t, \b, \\ and \"
//	tag = {             a section within, up to a line with }
//	include FILE        includedir DIR
//	# comment           ; comment
func (pr *profileReader) read(name string, depth int) error {
	if pr.files++; pr.files > maxProfileFiles || depth > maxProfileDepth {
		return fmt.Errorf("%s: more than %d files are included", name, maxProfileFiles)
	}
	b, err := pr.fs.Read(name, maxProfile)
	if err != nil {
		return err
	}
	var top string
	var stack []*profile
	for i, line := range strings.Split(string(b), "\n") {
		at := func(format string, args ...any) error {
			return fmt.Errorf("%s, line %d: %s", name, i+1, fmt.Sprintf(format, args...))
		}
		line = strings.TrimSpace(strings.TrimSuffix(line, "\r"))
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if pr.nodes++; pr.nodes > maxProfileNodes {
			return at("more than %d settings", maxProfileNodes)
		}
		if word, rest, _ := strings.Cut(line, " "); len(stack) <= 1 && !strings.Contains(line, "=") {
			rest = strings.TrimSpace(rest)
			switch word {
			case "include":
				if err := pr.include(rest, depth); err != nil {
					return err
				}
				continue
			case "includedir":
				if err := pr.includeDir(rest, depth); err != nil {
					return err
				}
				continue
			case "module":
				pr.notes = append(pr.notes, at("modules are not loaded").Error())
				continue
			}
		}
		switch {
		case line[0] == '[':
			title, rest, found := strings.Cut(line[1:], "]")
			if !found || len(stack) > 1 || strings.Trim(rest, "* \t") != "" {
				return at("%q is no section", clip(line))
			}
			top = strings.TrimSpace(title)
			s := pr.root.section(top)
			if s == nil {
				return at("section %q is final", clip(top))
			}
			if strings.HasPrefix(rest, "*") {
				s.final = true
			}
			stack = []*profile{s}
		case line[0] == '}':
			if len(stack) < 2 || strings.Trim(line[1:], "* \t") != "" {
				return at("a } without its {")
			}
			stack = stack[:len(stack)-1]
		default:
			tag, value, found := strings.Cut(line, "=")
			tag = strings.TrimSuffix(strings.TrimSpace(tag), "*")
			value = strings.TrimSpace(value)
			if !found || tag == "" || len(stack) == 0 {
				return at("%q is no setting", clip(line))
			}
			in := stack[len(stack)-1]
			if value == "{" {
				if len(stack) > maxProfileDepth {
					return at("sections more than %d deep", maxProfileDepth)
				}
				s := new(profile)
				in.nodes = append(in.nodes, profileNode{name: tag, sub: s})
				stack = append(stack, s)
				continue
			}
			in.nodes = append(in.nodes, profileNode{name: tag, value: unquote(value)})
		}
	}
	if len(stack) > 1 {
		return fmt.Errorf("%s: a { in section %q has no }", name, clip(top))
	}
	return nil
}

func (pr *profileReader) include(name string, depth int) error {
	if !path.IsAbs(name) {
		return fmt.Errorf("include %q: an absolute path is expected", clip(name))
	}
	return pr.read(name, depth+1)
}

// includeDir reads the files of a directory whose names are letters, digits, - and _,
// or end in .conf.
func (pr *profileReader) includeDir(dir string, depth int) error {
	if !path.IsAbs(dir) {
		return fmt.Errorf("includedir %q: an absolute path is expected", clip(dir))
	}
	names, err := pr.fs.List(dir)
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, n := range names {
		plain := strings.TrimSuffix(n, ".conf")
		if n == "" || n[0] == '.' || strings.ContainsFunc(plain, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || plain != n && r == '.')
		}) {
			continue
		}
		if err := pr.read(path.Join(dir, n), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// section finds or makes a section at the top; nil when an earlier file closed it.
func (p *profile) section(name string) *profile {
	for _, n := range p.nodes {
		if n.name == name {
			if n.sub.final {
				return nil
			}
			return n.sub
		}
	}
	s := new(profile)
	p.nodes = append(p.nodes, profileNode{name: name, sub: s})
	return s
}

// unquote takes a value out of its quotes.
func unquote(v string) string {
	if len(v) < 2 || v[0] != '"' {
		return v
	}
	var b strings.Builder
	for i := 1; i < len(v); i++ {
		switch c := v[i]; {
		case c == '"':
			return b.String()
		case c == '\\' && i+1 < len(v):
			i++
			switch v[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'b':
				b.WriteByte('\b')
			default:
				b.WriteByte(v[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// values are the values of a relation, whose sections are named before it, in order.
func (p *profile) values(names ...string) (list []string) {
	if p == nil {
		return nil
	}
	for _, n := range p.nodes {
		switch {
		case n.name != names[0]:
		case len(names) == 1 && n.sub == nil:
			list = append(list, n.value)
		case len(names) > 1:
			list = append(list, n.sub.values(names[1:]...)...)
		}
	}
	return list
}

// value is the first value of a relation, "" when there is none.
func (p *profile) value(names ...string) string {
	if list := p.values(names...); len(list) > 0 {
		return list[0]
	}
	return ""
}

// relations are the names and values in a section.
func (p *profile) relations(names ...string) (list []profileNode) {
	for _, n := range p.nodes {
		switch {
		case n.sub == nil:
			if len(names) == 0 {
				list = append(list, n)
			}
		case len(names) > 0 && n.name == names[0]:
			list = append(list, n.sub.relations(names[1:]...)...)
		}
	}
	return list
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
