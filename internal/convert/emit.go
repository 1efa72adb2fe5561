package convert

import (
	"fmt"
	"strings"
)

// section is a list of keys with values in the order in which they are written: a
// string, a list of strings, a section or a list of sections.
type section []entry

type entry struct {
	key string
	val any
}

// set adds a key unless its value asks for nothing.
func (s *section) set(key string, val any) {
	switch v := val.(type) {
	case string:
		if v == "" {
			return
		}
	case []string:
		if len(v) == 0 {
			return
		}
	case section:
		if len(v) == 0 {
			return
		}
	case []section:
		if len(v) == 0 {
			return
		}
	}
	*s = append(*s, entry{key, val})
}

// quote writes a string so that YAML and TOML read the same: both know these
// escapes.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= ' ' && r < 0x7f:
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// bare tells whether a string is read as text by YAML without quotation marks.
func bare(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" && s != "null" && s != "true" && s != "false"
}

// scalar writes a value; numbers and words stay as they are in YAML.
func scalar(s string, toml bool) string {
	if number := strings.Trim(s, "0123456789") == "" && s != "" && (s == "0" || s[0] != '0') && len(s) < 18; number || !toml && bare(s) {
		return s
	}
	return quote(s)
}

func values(v any, toml bool) string {
	switch v := v.(type) {
	case string:
		return scalar(v, toml)
	case []string:
		out := make([]string, len(v))
		for i, s := range v {
			// A list is of texts throughout.
			if out[i] = quote(s); !toml {
				out[i] = scalar(s, toml)
			}
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	panic(fmt.Sprintf("convert: a value of type %T", v))
}

// YAML is the configuration, with the commands as comments behind it.
func (r *Result) YAML() string {
	var b strings.Builder
	yaml(&b, r.doc, "")
	r.comments(&b)
	return b.String()
}

func yaml(b *strings.Builder, s section, indent string) {
	for _, e := range s {
		switch v := e.val.(type) {
		case section:
			fmt.Fprintf(b, "%s%s:\n", indent, e.key)
			yaml(b, v, indent+"  ")
		case []section:
			fmt.Fprintf(b, "%s%s:\n", indent, e.key)
			for _, x := range v {
				var item strings.Builder
				yaml(&item, x, indent+"    ")
				text := item.String()
				b.WriteString(indent + "  - " + text[len(indent)+4:])
			}
		default:
			fmt.Fprintf(b, "%s%s: %s\n", indent, e.key, values(v, false))
		}
	}
}

// TOML is as YAML.
func (r *Result) TOML() string {
	var b strings.Builder
	toml(&b, r.doc, "")
	r.comments(&b)
	return b.String()
}

// toml writes the keys of a table before the tables in it.
func toml(b *strings.Builder, s section, path string) {
	for _, e := range s {
		switch e.val.(type) {
		case section, []section:
		default:
			fmt.Fprintf(b, "%s = %s\n", e.key, values(e.val, true))
		}
	}
	for _, e := range s {
		name := strings.TrimPrefix(path+"."+e.key, ".")
		switch v := e.val.(type) {
		case section:
			fmt.Fprintf(b, "\n[%s]\n", name)
			toml(b, v, name)
		case []section:
			for _, x := range v {
				fmt.Fprintf(b, "\n[[%s]]\n", name)
				toml(b, x, name)
			}
		}
	}
}

func (r *Result) comments(b *strings.Builder) {
	if len(r.Commands) == 0 {
		return
	}
	b.WriteString("\n# What was keyed by hand is no part of the configuration. These commands put it in:\n#\n")
	for _, c := range r.Commands {
		b.WriteString("#   " + c + "\n")
	}
}
