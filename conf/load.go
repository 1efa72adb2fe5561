package conf

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"iked/internal/pki"
	"iked/internal/secret"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// maxFile bounds a configuration file or credential file.
const maxFile = 32 << 20

// Empty is the configuration of a daemon without a file.
func Empty() *Config { return &Config{Global: Defaults()} }

// Load reads a file with everything beside it and checks it. All faults are
// returned; the Config is nil when one of them is more than a warning. now is for
// the validity of certificates.
//
// The name of the file says its format: .yaml, .yml or .toml. Certificates, CA
// certificates, private keys and CRLs are read from certs/, cacerts/, private/ and
// crls/ beside it.
func Load(file string, now time.Time) (*Config, Faults) {
	data, _, err := readFile(file)
	if err != nil {
		l := &loader{}
		l.add(Pos{File: file}, err)
		return nil, l.faults
	}
	return Parse(file, data, now)
}

// Parse is Load with the text of the file at hand.
func Parse(file string, data []byte, now time.Time) (*Config, Faults) {
	l := &loader{dir: filepath.Dir(file), now: now}
	c := Empty()
	c.File = file
	root, format := l.parse(file, data)
	if root == nil {
		return nil, l.faults
	}
	l.document(c, root, file)
	l.directories(c)
	if !l.faults.Failed() {
		l.decode(file, format, data)
	}
	l.psks = NewPSKs(c.Secrets)
	l.impliedAuth(c)
	l.takeHomes(c)
	l.checkHomeLinks(c)
	l.validate(c)
	l.permissions(file)
	slices.SortStableFunc(l.faults, func(a, b *Fault) int {
		if a.File != b.File {
			return 0
		}
		return a.Line - b.Line
	})
	if l.faults.Failed() {
		return nil, l.faults
	}
	return c, l.faults
}

// parse makes nodes of the text.
func (l *loader) parse(file string, data []byte) (*node, string) {
	format, read := "yaml", parseYAML
	switch ext := strings.ToLower(filepath.Ext(file)); ext {
	case ".yaml", ".yml":
	case ".toml":
		format, read = "toml", parseTOML
	default:
		l.fault(Pos{File: file}, "name it .yaml or .toml", "the format of the file is not known by its ending %q", ext)
		return nil, ""
	}
	if len(data) > maxFile {
		l.fault(Pos{File: file}, "", "the file has %d octets, at most %d are read", len(data), maxFile)
		return nil, ""
	}
	root, line, err := read(data)
	if err == nil && root.kind == nullNode {
		root = &node{kind: mapNode}
	}
	if err == nil && root.kind != mapNode {
		line, err = root.line, errors.New("expected keys such as connections: at the top")
	}
	if err != nil {
		l.add(Pos{File: file, Line: line}, err)
		return nil, ""
	}
	return root, format
}

// document is the shape of a file, as the configuration library checks it.
type document struct {
	Connections []map[string]any `mapstructure:"connections"`
	Secrets     []map[string]any `mapstructure:"secrets"`
	Pools       []map[string]any `mapstructure:"pools"`
	Authorities []map[string]any `mapstructure:"authorities"`
	Radius      []map[string]any `mapstructure:"radius"`
	Homes       []map[string]any `mapstructure:"home_addresses"`
	Log         map[string]any   `mapstructure:"log"`
	Control     map[string]any   `mapstructure:"control"`
	Datapath    map[string]any   `mapstructure:"datapath"`
	Limits      map[string]any   `mapstructure:"limits"`
	Retransmit  map[string]any   `mapstructure:"retransmit"`
	Others      map[string]any   `mapstructure:",remain"`
}

// decode lets the configuration library read the same text into the same shape:
// what it refuses, nothing may accept.
func (l *loader) decode(file, format string, data []byte) {
	// The delimiter keeps dots in names whole.
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00"))
	v.SetConfigType(format)
	var doc document
	err := v.ReadConfig(bytes.NewReader(data))
	if err == nil {
		err = v.UnmarshalExact(&doc, func(c *mapstructure.DecoderConfig) { c.WeaklyTypedInput = false })
	}
	if err != nil {
		l.add(Pos{File: file}, fmt.Errorf("the file cannot be decoded: %w", err))
	}
}

// document reads the sections of a file.
func (l *loader) document(c *Config, root *node, file string) {
	top := Pos{File: file}
	l.top = Pos{File: file, lines: root.lineTable()}
	rest := &node{kind: mapNode}
	var secrets []*secretEntry
	sections := func(n *node, p Pos, name string, read func(*Tree)) {
		switch n.kind {
		case nullNode:
		case mapNode:
			read(l.tree(name, n, p, ""))
		default:
			l.fault(p, "", "expected a section")
		}
	}
	for _, e := range root.entries {
		p := top.sub(e.key, e.line)
		switch e.key {
		case "connections":
			l.named(e.val, p, func(name string, n *node, pos Pos) {
				c.Connections = append(c.Connections, l.connection(l.tree(name, n, pos, "name")))
			})
		case "pools":
			l.named(e.val, p, func(name string, n *node, pos Pos) {
				c.Pools = append(c.Pools, l.pool(l.tree(name, n, pos, "name")))
			})
		case "authorities":
			l.named(e.val, p, func(name string, n *node, pos Pos) {
				c.Authorities = append(c.Authorities, l.authority(l.tree(name, n, pos, "name")))
			})
		case "radius":
			l.named(e.val, p, func(name string, n *node, pos Pos) {
				c.Radius = append(c.Radius, l.radius(l.tree(name, n, pos, "name")))
			})
		case "secrets":
			secrets = l.secrets(e.val, p)
		case "home_addresses":
			c.Homes = l.homeList(e.val, p)
		case "log":
			sections(e.val, p, e.key, func(t *Tree) { fill(l, logFields(), &c.Log, t, nil) })
		case "control":
			sections(e.val, p, e.key, func(t *Tree) { fill(l, controlFields(), &c.Control, t, nil) })
		case "datapath":
			sections(e.val, p, e.key, func(t *Tree) { fill(l, datapathFields(), &c.Datapath, t, nil) })
		case "limits":
			sections(e.val, p, e.key, func(t *Tree) { fill(l, limitsFields(), &c.Limits, t, nil) })
		case "retransmit":
			sections(e.val, p, e.key, func(t *Tree) { fill(l, retransmitFields(), &c.Retransmit, t, nil) })
		default:
			rest.entries = append(rest.entries, e)
		}
	}
	fill(l, globalFields(), &c.Global, l.tree("", rest, top, ""), nil,
		"connections", "secrets", "pools", "authorities", "radius", "home_addresses", "log", "control", "datapath", "limits", "retransmit")
	for _, s := range secrets {
		l.secret(c, s)
	}
}

// connection reads one connection of a file or of the control protocol.
func (l *loader) connection(t *Tree) *Connection {
	c := newConnection(t.Name, t.Pos)
	given := fill(l, connectionFields(), c, t, func(it *Item) bool {
		low := strings.ToLower(it.Key)
		switch {
		case it.Key == "children":
			for i := range it.Tree.Items {
				ch := &it.Tree.Items[i]
				if ch.Kind != Section {
					l.unknownKey(ch, []string{"a section for each child"})
					continue
				}
				c.Children = append(c.Children, l.child(ch.Tree))
			}
		case strings.HasPrefix(low, "local") && !isField(it.Key, connectionFields()):
			c.Local = append(c.Local, l.auth(it, "local"))
		case strings.HasPrefix(low, "remote") && !isField(it.Key, connectionFields()):
			c.Remote = append(c.Remote, l.auth(it, "remote"))
		default:
			return false
		}
		return true
	}, "local", "remote", "children")
	for _, side := range [][]*Auth{c.Local, c.Remote} {
		slices.SortStableFunc(side, func(a, b *Auth) int { return a.Round - b.Round })
		if len(side) > 1 && c.Version != 1 {
			l.fault(side[1].pos, "keep one local and one remote section", "not supported by this version: more than one authentication round")
		}
	}
	c.complete(given)
	for _, ch := range c.Children {
		if c.PerPacket(ch) && !ch.idleGiven {
			ch.Inactivity = defaultPFPIdle
		}
	}
	return c
}

func isField[T any](key string, fields []field[T]) bool {
	return slices.ContainsFunc(fields, func(f field[T]) bool { return f.key == key })
}

func (l *loader) child(t *Tree) *Child {
	c := newChild(t.Name, t.Pos)
	given := fill(l, childFields(), c, t, nil)
	if given["start"] {
		for _, k := range []string{"start_action", "close_action", "dpd_action"} {
			if given[k] {
				l.fault(t.Pos.sub(k, 0), "keep start, or the three actions", "start already says what %s would", k)
			}
		}
	}
	if given["df"] && given["copy_df"] {
		l.fault(t.Pos.sub("copy_df", 0), "keep one of them", "df already says what copy_df would")
	}
	c.complete(given)
	return c
}

func (l *loader) secrets(n *node, p Pos) []*secretEntry {
	if n.kind == nullNode {
		return nil
	}
	if n.kind != listNode {
		l.fault(p, "write a line \"- {psk: …}\" for each", "expected a list of secrets")
		return nil
	}
	var out []*secretEntry
	for i, v := range n.items {
		pos := p.at(fmt.Sprint(i), v.line)
		if v.kind != mapNode {
			l.fault(pos, "write \"- {psk: …}\"", "expected a secret with its keys")
			continue
		}
		s := &secretEntry{pos: pos}
		before := len(l.faults)
		t := l.tree("", v, pos, "name")
		for _, e := range v.entries {
			if e.key == "name" {
				s.name = e.val.text
			}
		}
		given := fill(l, secretFields(), s, t, nil, "name")
		switch {
		case given["psk"] == given["private"]:
			if len(l.faults) == before {
				l.fault(pos, "add psk or private", "expected either psk or private")
			}
			continue
		case given["private"] && given["id"]:
			l.fault(pos.sub("id", 0), "remove id: a key belongs to the certificates with its public half", "a private key has no id")
		case given["psk"] && given["passphrase"]:
			l.fault(pos.sub("passphrase", 0), "remove it", "a passphrase is for a private key")
		}
		if len(l.faults) == before {
			out = append(out, s)
		}
	}
	return out
}

// secret takes an entry of the list secrets over.
func (l *loader) secret(c *Config, s *secretEntry) {
	if s.private == "" {
		c.Secrets = append(c.Secrets, &Secret{Name: s.name, Type: cmp.Or(s.kind, SecretIKE), Data: s.psk, Owners: s.owners, pos: s.pos})
		return
	}
	data, path, err := l.read("private", s.private)
	if err != nil {
		l.add(s.pos.sub("private", 0), err)
		return
	}
	l.key(c, data, path, s.passphrase, s.pos.sub("private", 0))
}

func (l *loader) key(c *Config, data []byte, path string, passphrase secret.Bytes, pos Pos) {
	if slices.ContainsFunc(c.Keys, func(k *Key) bool { return k.File == path }) {
		return
	}
	if err := l.private(path); err != nil {
		l.add(pos, err)
		return
	}
	k, err := pki.ParseKey(data, passphrase, path)
	if errors.Is(err, pki.ErrEncrypted) {
		err = refuse("add to secrets: {private: "+filepath.Base(path)+", passphrase: …}", "%s", err.Error())
	}
	if err != nil {
		l.add(pos, err)
		return
	}
	c.Keys = append(c.Keys, &Key{File: path, Key: k, pos: pos})
}

// directories reads certs/, cacerts/, private/ and crls/.
func (l *loader) directories(c *Config) {
	each := func(name string, do func(path string, data []byte) error) {
		dir := filepath.Join(l.dir, name)
		entries, err := os.ReadDir(dir)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				l.add(Pos{File: dir}, err)
			}
			return
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.IsDir() || strings.HasPrefix(e.Name(), ".") || strings.EqualFold(e.Name(), "README") || strings.EqualFold(e.Name(), "README.md") {
				continue
			}
			data, err := l.file(path)
			if err == nil {
				err = do(path, data)
			}
			if err != nil {
				l.add(Pos{File: path}, err)
			}
		}
	}
	each("certs", func(path string, data []byte) error {
		certs, err := pki.ParseCerts(data, path)
		for _, x := range certs {
			c.Certs = append(c.Certs, &Cert{File: path, Cert: x})
		}
		return err
	})
	each("cacerts", func(path string, data []byte) error {
		certs, err := pki.ParseCerts(data, path)
		for _, x := range certs {
			if !x.IsCA() {
				return refuse("put it into certs/", "certificate %q is no CA certificate", x.Name())
			}
			c.Certs = append(c.Certs, &Cert{File: path, CA: true, Cert: x})
		}
		return err
	})
	each("private", func(path string, data []byte) error {
		l.key(c, data, path, secret.Bytes{}, Pos{File: path})
		return nil
	})
	each("crls", func(path string, data []byte) error {
		lists, err := pki.ParseCRLs(data, path)
		for _, x := range lists {
			c.CRLs = append(c.CRLs, &CRL{File: path, CRL: x})
		}
		return err
	})
}

// read finds a file that the configuration names: an absolute path, or a name in
// the directory sub beside the configuration, or beside it.
func (l *loader) read(sub, name string) (data []byte, path string, err error) {
	if name == "" {
		return nil, "", errors.New("expected the name of a file")
	}
	paths := []string{name}
	switch {
	case !filepath.IsAbs(name) && sub != "":
		paths = []string{filepath.Join(l.dir, sub, name), filepath.Join(l.dir, name)}
	case !filepath.IsAbs(name):
		paths = []string{filepath.Join(l.dir, name)}
	}
	for _, path := range paths {
		data, err = l.file(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return data, path, err
		}
	}
	return nil, "", refuse("", "there is no file %s", strings.Join(paths, " or "))
}

// readFile reads a regular file, and what its mode was meanwhile: another look at
// the path later could see another file.
func readFile(path string) ([]byte, fs.FileMode, error) {
	// Without blocking, or a FIFO would hold up a reload for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, 0, err
	}
	if len(data) > maxFile {
		return nil, 0, fmt.Errorf("%s has more than %d octets", path, maxFile)
	}
	return data, st.Mode(), nil
}

// file is readFile that notes the mode.
func (l *loader) file(path string) ([]byte, error) {
	data, mode, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if l.modes == nil {
		l.modes = map[string]fs.FileMode{}
	}
	l.modes[path] = mode
	return data, nil
}

// private refuses a secret file that everybody may read. It was read before.
func (l *loader) private(path string) error {
	mode, ok := l.modes[path]
	if !ok {
		return fmt.Errorf("%s was not read", path)
	}
	if m := mode.Perm(); m&0o007 != 0 {
		return refuse("chmod 600 "+path, "%s can be read or written by every user (mode %04o)", path, m)
	}
	return nil
}

// permissions warns about a configuration with secrets in it that everybody may
// read.
func (l *loader) permissions(file string) {
	if st, err := os.Stat(file); err == nil && st.Mode().Perm()&0o007 != 0 && l.inline {
		l.warn(Pos{File: file}, "chmod 600 "+file+", or write psk: \"file:…\"", "the file has secrets and can be read by every user")
	}
}
