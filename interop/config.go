package interop

import (
	"fmt"
	"strings"
)

// A Section is configuration that iked and strongSwan are given alike: the keys
// are those of swanctl.conf.
type Section []Entry

// Entry is a key with a value: string, []string or Section.
type Entry struct {
	Key   string
	Value any
}

// Set replaces or adds an entry.
func (s *Section) Set(key string, value any) {
	for i := range *s {
		if (*s)[i].Key == key {
			(*s)[i].Value = value
			return
		}
	}
	*s = append(*s, Entry{key, value})
}

// values is the section as the control protocol carries it.
func (s Section) values() map[string]any {
	m := map[string]any{}
	for _, e := range s {
		if sub, ok := e.Value.(Section); ok {
			m[e.Key] = sub.values()
		} else {
			m[e.Key] = e.Value
		}
	}
	return m
}

// Config is one daemon's configuration.
type Config struct {
	// Connections and Pools: the keys are names, the values Sections; the key
	// children inside a connection holds named Sections too.
	Connections Section
	Pools       Section
	Secrets     []Secret
	// IkedGlobal is only for iked: YAML lines of the top level.
	IkedGlobal string
}

// Secret is a pre-shared key with the identities it is for.
type Secret struct {
	PSK string
	IDs []string
	// XAuth makes it the password of a user.
	XAuth bool
}

// named are the keys whose Sections hold named things: lists in YAML.
func named(key string) bool {
	return key == "connections" || key == "children" || key == "pools"
}

// Swanctl writes the configuration as swanctl.conf.
func (c Config) Swanctl() string {
	var b strings.Builder
	writeSwanctl(&b, "", Section{{"connections", c.Connections}, {"pools", c.Pools}})
	b.WriteString("secrets {\n")
	for i, s := range c.Secrets {
		kind := "ike"
		if s.XAuth {
			kind = "eap" // charon has one type for both
		}
		fmt.Fprintf(&b, "  %s-%d {\n    secret = %q\n", kind, i, s.PSK)
		for j, id := range s.IDs {
			fmt.Fprintf(&b, "    id-%d = %q\n", j, id)
		}
		b.WriteString("  }\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func writeSwanctl(b *strings.Builder, indent string, s Section) {
	for _, e := range s {
		switch v := e.Value.(type) {
		case string:
			fmt.Fprintf(b, "%s%s = %q\n", indent, e.Key, v)
		case []string:
			fmt.Fprintf(b, "%s%s = %q\n", indent, e.Key, strings.Join(v, ", "))
		case Section:
			fmt.Fprintf(b, "%s%s {\n", indent, e.Key)
			writeSwanctl(b, indent+"  ", v)
			fmt.Fprintf(b, "%s}\n", indent)
		default:
			panic(fmt.Sprintf("interop: value of %s is a %T", e.Key, e.Value))
		}
	}
}

// YAML writes the configuration as iked.yaml.
func (c Config) YAML() string {
	var b strings.Builder
	b.WriteString(c.IkedGlobal)
	top := Section{{"connections", c.Connections}}
	if len(c.Pools) > 0 {
		top = append(top, Entry{"pools", c.Pools})
	}
	writeYAML(&b, "", top)
	if len(c.Secrets) > 0 {
		b.WriteString("secrets:\n")
	}
	for _, s := range c.Secrets {
		fmt.Fprintf(&b, "  - psk: %q\n", s.PSK)
		if s.XAuth {
			b.WriteString("    type: xauth\n")
		}
		if len(s.IDs) > 0 {
			fmt.Fprintf(&b, "    id: %s\n", yamlList(s.IDs))
		}
	}
	return b.String()
}

func writeYAML(b *strings.Builder, indent string, s Section) {
	for _, e := range s {
		switch v := e.Value.(type) {
		case string:
			fmt.Fprintf(b, "%s%s: %s\n", indent, e.Key, yamlScalar(v))
		case []string:
			fmt.Fprintf(b, "%s%s: %s\n", indent, e.Key, yamlList(v))
		case Section:
			fmt.Fprintf(b, "%s%s:\n", indent, e.Key)
			if !named(e.Key) {
				writeYAML(b, indent+"  ", v)
				continue
			}
			for _, item := range v {
				fmt.Fprintf(b, "%s  - name: %s\n", indent, item.Key)
				writeYAML(b, indent+"    ", item.Value.(Section))
			}
		default:
			panic(fmt.Sprintf("interop: value of %s is a %T", e.Key, e.Value))
		}
	}
}

// yamlScalar leaves numbers and booleans bare, since iked takes no text for them.
func yamlScalar(s string) string {
	switch s {
	case "yes", "true":
		return "true"
	case "no", "false":
		return "false"
	}
	if s != "" && strings.Trim(s, "0123456789") == "" {
		return s
	}
	return fmt.Sprintf("%q", s)
}

func yamlList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
