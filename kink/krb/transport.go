package krb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"iked/kink"
	"iked/kink/der"
	"iked/kink/krb/krb5"
)

// KDC asks the key distribution centers of realms.
type KDC interface {
	// Exchange sends a request to the KDCs of a realm and returns what one answers. It
	// ends with the context.
	Exchange(ctx context.Context, realm string, request []byte) ([]byte, error)
}

// Caps on the KDCs of a realm that are asked.
const (
	maxServers   = 16
	maxAddresses = 32
	// longest is how long KDCs are asked when the context says nothing.
	longest = 30 * time.Second
)

// Codes of errors that are about the transport (RFC 4120, Section 7.5.9).
const (
	errUnavailable = 29 // KDC_ERR_SVC_UNAVAILABLE
	errTooBig      = 52 // KRB_ERR_RESPONSE_TOO_BIG
)

// Network asks KDCs by UDP and TCP (RFC 4120, Section 7.2), at the addresses that
// krb5.conf or SRV records give.
type Network struct {
	conf     *Conf
	resolver *net.Resolver
	dialer   net.Dialer
}

// NewNetwork makes a Network.
func NewNetwork(c *Conf) *Network {
	return &Network{conf: c, resolver: &net.Resolver{PreferGo: true}}
}

// Through makes its packets go by a resolver and a dialer of the caller's.
func (n *Network) Through(r *net.Resolver, d *net.Dialer) *Network {
	n.resolver, n.dialer = r, *d
	return n
}

// endpoint is one address of a KDC.
type endpoint struct {
	name string // for a person
	addr netip.AddrPort
	tcp  bool // TCP alone
}

// Exchange implements KDC. Every address is asked by UDP, for a time that doubles
// from round to round, unless the request is large; who cannot be asked by UDP, or
// says that the answer is too large, is asked by TCP.
func (n *Network) Exchange(ctx context.Context, realm string, request []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, longest)
		defer cancel()
	}
	list, problems := n.find(ctx, realm)
	var unavailable []byte
	wait := n.conf.Timeout
	for round := 0; round < n.conf.Retries && len(list) > 0 && ctx.Err() == nil; round++ {
		var round1 []string
		for _, e := range list {
			if ctx.Err() != nil {
				break
			}
			reply, err := n.ask(ctx, e, request, wait)
			if err != nil {
				round1 = append(round1, fmt.Sprintf("%s: %v", e.name, err))
				continue
			}
			if code(reply) == errUnavailable {
				unavailable = reply
				round1 = append(round1, e.name+": it says that its service is not available")
				continue
			}
			return reply, nil
		}
		problems = round1
		wait = min(2*wait, 10*time.Second)
	}
	if unavailable != nil {
		return unavailable, nil
	}
	if len(problems) == 0 && ctx.Err() != nil {
		problems = []string{ctx.Err().Error()}
	}
	return nil, unreachable(realm, problems, list)
}

// unreachable says that no KDC answered.
func unreachable(realm string, evidence []string, list []endpoint) *kink.KerberosError {
	var names []string
	for i, e := range list {
		if i == 3 {
			names = append(names, fmt.Sprintf("%d more", len(list)-i))
			break
		}
		names = append(names, e.name)
	}
	e := &kink.KerberosError{
		Sentence:  fmt.Sprintf("no KDC of realm %s can be reached; asked: %s", realm, strings.Join(names, ", ")),
		Advice:    "see that a KDC is up and that UDP and TCP port 88 of it are reachable from here",
		Evidence:  evidence,
		Temporary: true,
	}
	if len(list) == 0 {
		e.Sentence = fmt.Sprintf("no KDC of realm %s is known", realm)
		e.Advice = fmt.Sprintf("name one in krb5.conf, section realms, as kdc of %s, or give the domain SRV records _kerberos._udp", realm)
	}
	return e
}

func code(reply []byte) int32 {
	if !der.IsApplication(reply, krb5.TypeError) {
		return 0
	}
	e, err := kink.ParseKRBError(reply)
	if err != nil {
		return 0
	}
	return e.Code
}

// ask sends a request to one KDC, and waits so long by each transport.
func (n *Network) ask(ctx context.Context, e endpoint, request []byte, wait time.Duration) ([]byte, error) {
	transports := []func(context.Context, endpoint, []byte) ([]byte, error){n.udp, n.tcp}
	if e.tcp {
		transports = transports[1:]
	} else if len(request) >= n.conf.UDPLimit {
		// RFC 4120, Section 7.2.1: larger than a datagram should be.
		transports[0], transports[1] = n.tcp, n.udp
	}
	var problems []string
	for _, send := range transports {
		part, cancel := context.WithTimeout(ctx, wait)
		reply, err := send(part, e, request)
		cancel()
		switch {
		case err != nil:
			problems = append(problems, reason(err))
		case code(reply) == errTooBig:
			problems = append(problems, "the answer is too large for UDP")
		default:
			return reply, nil
		}
	}
	return nil, errors.New(strings.Join(problems, "; "))
}

// reason is an error without the addresses that are said elsewhere.
func reason(err error) string {
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		return "no answer"
	case errors.As(err, &op):
		return fmt.Sprintf("%s: %v", strings.ToUpper(op.Net), op.Err)
	}
	return err.Error()
}

func (n *Network) dial(ctx context.Context, network string, e endpoint) (net.Conn, func(), error) {
	conn, err := n.dialer.DialContext(ctx, network, e.addr.String())
	if err != nil {
		return nil, nil, err
	}
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() { stop(); conn.Close() }, nil
}

// udp asks by UDP. What is no reply of a KDC is passed over: anybody can send it.
func (n *Network) udp(ctx context.Context, e endpoint, request []byte) ([]byte, error) {
	conn, done, err := n.dial(ctx, "udp", e)
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	b := make([]byte, 65536)
	for {
		size, err := conn.Read(b)
		if err != nil {
			return nil, err
		}
		if isReply(b[:size]) {
			return b[:size], nil
		}
	}
}

func isReply(b []byte) bool {
	for _, tag := range []int{krb5.TypeASRep, krb5.TypeTGSRep, krb5.TypeError} {
		if der.IsApplication(b, tag) {
			return true
		}
	}
	return false
}

// tcp asks by TCP: the size in four octets goes before a message; its highest bit is
// reserved (RFC 4120, Section 7.2.2).
func (n *Network) tcp(ctx context.Context, e endpoint, request []byte) ([]byte, error) {
	conn, done, err := n.dial(ctx, "tcp", e)
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > krb5.MaxKDCReply {
		return nil, fmt.Errorf("it announces %d octets; at most %d are read", size, krb5.MaxKDCReply)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, err
	}
	if !isReply(b) {
		return nil, errors.New("it answers with what is no reply of a KDC")
	}
	return b, nil
}

// find gives the addresses of a realm's KDCs, and what went wrong with those that are
// not among them.
func (n *Network) find(ctx context.Context, realm string) (list []endpoint, problems []string) {
	servers, err := n.conf.servers(realm)
	if err != nil {
		problems = append(problems, err.Error())
	}
	if len(servers) == 0 && err == nil && n.conf.LookupKDC {
		servers, problems = n.lookup(ctx, realm)
	}
	for i, s := range servers {
		if i == maxServers {
			break
		}
		addrs, err := n.resolver.LookupNetIP(ctx, "ip", s.host)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", s.host, err))
			continue
		}
		port, _ := strconv.ParseUint(s.port, 10, 16)
		for _, a := range addrs {
			e := endpoint{s.host, netip.AddrPortFrom(a.Unmap(), uint16(port)), s.tcp}
			if a.Unmap().String() != s.host {
				e.name = fmt.Sprintf("%s (%s)", s.host, a.Unmap())
			}
			if len(list) < maxAddresses {
				list = append(list, e)
			}
		}
	}
	return list, problems
}

// lookup asks the DNS for the KDCs of a realm (RFC 4120, Section 7.2.3.2).
func (n *Network) lookup(ctx context.Context, realm string) (list []server, problems []string) {
	for _, proto := range []string{"udp", "tcp"} {
		// The dot keeps the search list away.
		_, records, err := n.resolver.LookupSRV(ctx, "kerberos", proto, strings.TrimSuffix(realm, ".")+".")
		if err != nil {
			problems = append(problems, reason(err))
			continue
		}
		for _, r := range records {
			if host := strings.TrimSuffix(r.Target, "."); host != "" && r.Port != 0 {
				list = append(list, server{host, strconv.Itoa(int(r.Port)), proto == "tcp"})
			}
		}
		if len(list) > 0 {
			return list, nil
		}
	}
	return list, problems
}
