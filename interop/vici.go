package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strongswan/govici/vici"
)

// Control drives a daemon over the control protocol, with a client that was not
// written here: iked and strongSwan alike.
type Control struct {
	Socket string // path
	// Unanswered: an IKE SA that was replaced may still be listed, because the answer to
	// its Delete got lost: strongSwan forgets it and answers no repetition.
	Unanswered bool
}

// IKESA is what list-sas tells about an IKE SA. Numbers are decimal text, SPIs
// hexadecimal, flags "yes" or empty.
type IKESA struct {
	Name, UniqueID, Version, State          string
	LocalHost, LocalPort, LocalID           string
	RemoteHost, RemotePort, RemoteID        string
	XAuthID, Banner                         string
	Initiator, InitiatorSPI, ResponderSPI   string
	NATLocal, NATRemote, NATAny             string
	EncrAlg, EncrKeysize, IntegAlg, PRF, DH string
	Established, RekeyTime, ReauthTime      string
	LocalVIPs, RemoteVIPs                   []string
	TasksQueued, TasksActive, TasksPassive  []string
	Children                                []ChildSA
}

// ChildSA is what list-sas tells about a CHILD SA.
type ChildSA struct {
	Name, UniqueID, ReqID, State, Mode, Protocol, Encap string
	SPIIn, SPIOut                                       string
	AHSPIIn, AHSPIOut, AHIntegAlg                       string // of AH around ESP; iked alone
	CPIIn, CPIOut                                       string // of compression
	EncrAlg, EncrKeysize, IntegAlg, DH, ESN             string
	BytesIn, PacketsIn, BytesOut, PacketsOut            string
	RekeyTime, LifeTime, InstallTime                    string
	LocalTS, RemoteTS                                   []string
}

// Child finds the first child of a name in a state; empty matches all.
func (sa *IKESA) Child(name, state string) *ChildSA {
	for i := range sa.Children {
		c := &sa.Children[i]
		if (name == "" || c.Name == name) && (state == "" || c.State == state) {
			return c
		}
	}
	return nil
}

// Cipher is the child's algorithms on one line: "AES_GCM_16-128".
func (c *ChildSA) Cipher() string { return cipher(c.EncrAlg, c.EncrKeysize, c.IntegAlg, c.DH) }

// Cipher is the IKE SA's algorithms on one line.
func (sa *IKESA) Cipher() string {
	return cipher(sa.EncrAlg, sa.EncrKeysize, sa.IntegAlg, sa.PRF, sa.DH)
}

func cipher(encr, keysize string, rest ...string) string {
	if keysize != "" {
		encr += "-" + keysize
	}
	for _, r := range rest {
		if r != "" {
			encr += "/" + r
		}
	}
	return encr
}

func (c *Control) session() (*vici.Session, error) {
	return vici.NewSession(vici.WithSocketPath(c.Socket))
}

// Call makes one request and returns the answer; success=no is an error with the
// daemon's words.
func (c *Control) Call(ctx context.Context, command string, args map[string]any) (*vici.Message, error) {
	s, err := c.session()
	if err != nil {
		return nil, fmt.Errorf("interop: %s: %w", c.Socket, err)
	}
	defer s.Close()
	m, err := vici.MarshalMessage(args)
	if err != nil {
		return nil, fmt.Errorf("interop: %s: %w", command, err)
	}
	answer, err := s.Call(ctx, command, m)
	if err != nil {
		return answer, fmt.Errorf("interop: %s %v: %w", command, args, err)
	}
	return answer, nil
}

// WaitReady waits until the daemon answers a version request.
func (c *Control) WaitReady(ctx context.Context, alive func() bool) error {
	for {
		if _, err := os.Stat(c.Socket); err == nil {
			if _, err := c.Call(ctx, "version", nil); err == nil {
				return nil
			}
		}
		if !alive() {
			return errors.New("interop: the daemon ended before it was ready")
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("interop: the daemon does not answer on %s: %w", c.Socket, err)
		}
	}
}

// Load gives the daemon connections and secrets, which takes no other program.
func (c *Control) Load(ctx context.Context, conf Config) error {
	for i, s := range conf.Secrets {
		args := map[string]any{"id": fmt.Sprintf("ike-%d", i), "type": "IKE", "data": s.PSK, "owners": s.IDs}
		if _, err := c.Call(ctx, "load-shared", args); err != nil {
			return err
		}
	}
	for _, e := range conf.Connections {
		if _, err := c.Call(ctx, "load-conn", map[string]any{e.Key: e.Value.(Section).values()}); err != nil {
			return err
		}
	}
	return nil
}

// Initiate brings up a child, and waits until it is or until it failed.
func (c *Control) Initiate(ctx context.Context, child string) error {
	_, err := c.Call(ctx, "initiate", map[string]any{"child": child})
	return err
}

// SAs lists the IKE SAs with their children, oldest first.
//
// The client library drops events of a stream that come faster than they are
// taken, so that a list may be short: it is held against the number of SAs that the
// daemon counts.
func (c *Control) SAs(ctx context.Context) (sas []IKESA, err error) {
	var total int
	for range 20 {
		if sas, err = c.listSAs(ctx); err != nil {
			return nil, err
		}
		m, err := c.Call(ctx, "stats", nil)
		if err != nil {
			return nil, err
		}
		if total, err = countSAs(m); err != nil || total == len(sas) {
			return sas, err
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("interop: list-sas lists %d IKE SAs, stats counts %d", len(sas), total)
}

func countSAs(stats *vici.Message) (int, error) {
	ikesas, ok := stats.Get("ikesas").(*vici.Message)
	if !ok {
		return 0, errors.New("interop: stats has no section ikesas")
	}
	return strconv.Atoi(text(ikesas, "total"))
}

func (c *Control) listSAs(ctx context.Context) ([]IKESA, error) {
	s, err := c.session()
	if err != nil {
		return nil, fmt.Errorf("interop: %s: %w", c.Socket, err)
	}
	defer s.Close()
	var sas []IKESA
	for m, err := range s.CallStreaming(ctx, "list-sas", "list-sa", vici.NewMessage()) {
		if err != nil {
			return nil, fmt.Errorf("interop: list-sas: %w", err)
		}
		for _, name := range m.Keys() {
			if section, ok := m.Get(name).(*vici.Message); ok {
				sas = append(sas, ikeSA(name, section))
			}
		}
	}
	return sas, nil
}

func text(m *vici.Message, key string) string {
	s, _ := m.Get(key).(string)
	return s
}

func list(m *vici.Message, key string) []string {
	l, _ := m.Get(key).([]string)
	return l
}

func ikeSA(name string, m *vici.Message) IKESA {
	sa := IKESA{
		Name: name, UniqueID: text(m, "uniqueid"), Version: text(m, "version"), State: text(m, "state"),
		LocalHost: text(m, "local-host"), LocalPort: text(m, "local-port"), LocalID: text(m, "local-id"),
		RemoteHost: text(m, "remote-host"), RemotePort: text(m, "remote-port"), RemoteID: text(m, "remote-id"),
		XAuthID: text(m, "remote-xauth-id"), Banner: text(m, "banner"),
		Initiator: text(m, "initiator"), InitiatorSPI: text(m, "initiator-spi"), ResponderSPI: text(m, "responder-spi"),
		NATLocal: text(m, "nat-local"), NATRemote: text(m, "nat-remote"), NATAny: text(m, "nat-any"),
		EncrAlg: text(m, "encr-alg"), EncrKeysize: text(m, "encr-keysize"), IntegAlg: text(m, "integ-alg"),
		PRF: text(m, "prf-alg"), DH: text(m, "dh-group"),
		Established: text(m, "established"), RekeyTime: text(m, "rekey-time"), ReauthTime: text(m, "reauth-time"),
		LocalVIPs: list(m, "local-vips"), RemoteVIPs: list(m, "remote-vips"),
		TasksQueued: list(m, "tasks-queued"), TasksActive: list(m, "tasks-active"), TasksPassive: list(m, "tasks-passive"),
	}
	children, ok := m.Get("child-sas").(*vici.Message)
	if !ok {
		return sa
	}
	for _, key := range children.Keys() {
		cm, ok := children.Get(key).(*vici.Message)
		if !ok {
			continue
		}
		sa.Children = append(sa.Children, ChildSA{
			Name: text(cm, "name"), UniqueID: text(cm, "uniqueid"), ReqID: text(cm, "reqid"), State: text(cm, "state"),
			Mode: text(cm, "mode"), Protocol: text(cm, "protocol"), Encap: text(cm, "encap"),
			SPIIn: text(cm, "spi-in"), SPIOut: text(cm, "spi-out"),
			CPIIn: text(cm, "cpi-in"), CPIOut: text(cm, "cpi-out"),
			AHSPIIn: text(cm, "ah-spi-in"), AHSPIOut: text(cm, "ah-spi-out"), AHIntegAlg: text(cm, "ah-integ-alg"),
			EncrAlg: text(cm, "encr-alg"), EncrKeysize: text(cm, "encr-keysize"), IntegAlg: text(cm, "integ-alg"),
			DH: text(cm, "dh-group"), ESN: text(cm, "esn"),
			BytesIn: text(cm, "bytes-in"), PacketsIn: text(cm, "packets-in"),
			BytesOut: text(cm, "bytes-out"), PacketsOut: text(cm, "packets-out"),
			RekeyTime: text(cm, "rekey-time"), LifeTime: text(cm, "life-time"), InstallTime: text(cm, "install-time"),
			LocalTS: list(cm, "local-ts"), RemoteTS: list(cm, "remote-ts"),
		})
	}
	return sa
}

// Until polls list-sas until the condition holds; what names it in the error.
func (c *Control) Until(ctx context.Context, what string, ok func([]IKESA) bool) ([]IKESA, error) {
	for {
		sas, err := c.SAs(ctx)
		if err == nil && ok(sas) {
			return sas, nil
		}
		if err2 := sleep(ctx, 50*time.Millisecond); err2 != nil {
			return sas, fmt.Errorf("interop: waited in vain for: %s; now %s (%v)", what, Describe(sas), errors.Join(err, err2))
		}
	}
}

// UntilInstalled waits for an established IKE SA with an installed child, and
// nothing else: one SA of a kind is left after every rekey.
func (c *Control) UntilInstalled(ctx context.Context, child string) (*IKESA, *ChildSA, error) {
	count := func(sas []IKESA) []IKESA {
		if !c.Unanswered {
			return sas
		}
		return slices.DeleteFunc(slices.Clone(sas), func(sa IKESA) bool { return sa.State == "REKEYED" })
	}
	sas, err := c.Until(ctx, "one IKE SA ESTABLISHED with child "+child+" INSTALLED", func(sas []IKESA) bool {
		sas = count(sas)
		return len(sas) == 1 && sas[0].State == "ESTABLISHED" && sas[0].Child(child, "INSTALLED") != nil
	})
	if err != nil {
		return nil, nil, err
	}
	sas = count(sas)
	return &sas[0], sas[0].Child(child, "INSTALLED"), nil
}

// Describe is a list of SAs on one line.
func Describe(sas []IKESA) string {
	if len(sas) == 0 {
		return "no SA"
	}
	var parts []string
	for _, sa := range sas {
		s := fmt.Sprintf("%s #%s %s", sa.Name, sa.UniqueID, sa.State)
		for _, c := range sa.Children {
			s += fmt.Sprintf(" {%s #%s %s %s}", c.Name, c.UniqueID, c.State, c.Cipher())
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
