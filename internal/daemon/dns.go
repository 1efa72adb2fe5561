package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// resolvFile holds the name servers that peers assigned (RFC 7296, Section 3.15.1),
// in the form of resolv.conf(5). Which resolver a host uses is its administrator's
// choice: it points there, or does not. Nothing of the system's is overwritten.
type resolvFile struct {
	path string
	mu   sync.Mutex
	by   map[string]assigned
}

// assigned is what one peer gave: name servers, and the domain for names without
// dots, "" for none.
type assigned struct {
	servers []netip.Addr
	domain  string
}

// newResolvFile names the file: resolv.conf beside the control socket, for that
// folder goes with the daemon; else in the state directory.
func newResolvFile(control, state string) *resolvFile {
	dir := state
	if u, err := url.Parse(control); err == nil && u.Scheme == "unix" {
		dir = filepath.Dir(u.Host + u.Path)
	}
	r := &resolvFile{path: filepath.Join(dir, "resolv.conf"), by: map[string]assigned{}}
	// What a crashed daemon left is of no tunnel that is up. When it cannot be
	// removed, the first use says so.
	_ = r.write()
	return r
}

// Use implements engine.NameServers.
func (r *resolvFile) Use(owner string, servers []netip.Addr, domain string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by[owner] = assigned{slices.Clone(servers), domain}
	return r.write()
}

// Drop implements engine.NameServers.
func (r *resolvFile) Drop(owner string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.by, owner)
	return r.write()
}

// resolvHeader is the first line of the file, by which it is known again.
const resolvHeader = "# Name servers that IPsec peers assigned; written by iked."

// mine refuses a file that somebody else wrote: the system's own, when the control
// socket is in /etc.
func (r *resolvFile) mine() error {
	st, err := os.Lstat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("name servers: %w", err)
	}
	if st.Mode().IsRegular() {
		data, err := os.ReadFile(r.path)
		if err == nil && strings.HasPrefix(string(data), resolvHeader) {
			return nil
		}
	}
	return fmt.Errorf("name servers: %s is not a file of iked's, it is left alone", r.path)
}

// write replaces the file in one step; without name servers there is none.
func (r *resolvFile) write() error {
	var lines, domains []string
	for _, owner := range slices.Sorted(maps.Keys(r.by)) {
		for _, a := range r.by[owner].servers {
			if l := "nameserver " + a.String(); !slices.Contains(lines, l) {
				lines = append(lines, l)
			}
		}
		if d := r.by[owner].domain; d != "" && !slices.Contains(domains, d) {
			domains = append(domains, d)
		}
	}
	if len(domains) > 0 {
		lines = append(lines, "search "+strings.Join(domains, " "))
	}
	if err := r.mine(); err != nil {
		return err
	}
	if len(lines) == 0 {
		if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("name servers: %w", err)
		}
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(r.path), ".resolv.conf-*")
	if err != nil {
		return fmt.Errorf("name servers: %w", err)
	}
	_, err = tmp.WriteString(resolvHeader + "\n" + strings.Join(lines, "\n") + "\n")
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), r.path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("name servers: %w", err)
	}
	return nil
}
