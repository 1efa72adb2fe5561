package conf

import (
	"strings"

	"iked/internal/ident"
	"iked/internal/secret"
)

// secretEntry is an entry of the list secrets of a file: a shared secret or a
// private key.
type secretEntry struct {
	name       string
	kind       SecretType
	psk        secret.Bytes
	owners     []ident.ID
	private    string
	passphrase secret.Bytes
	pos        Pos
}

func secretFields() []field[secretEntry] {
	return []field[secretEntry]{
		{key: "psk", typ: "text", doc: "Pre-shared key: text, 0x and hexadecimal, 0s and base64, or file: and the name of a file beside the configuration, which only its owner and group may read. Quote it.", set: setSecret(func(s *secretEntry) *secret.Bytes { return &s.psk })},
		{key: "id", typ: "list of identities", def: "%any", list: true, doc: "Whose secret it is: one or both identities.", set: each(func(_ *loader, s *secretEntry, t string) error {
			id, err := ident.Parse(t)
			s.owners = append(s.owners, id)
			return err
		})},
		{key: "type", typ: "ike, xauth", def: "ike", doc: "What the secret is for: IKE, or a user of XAuth, whose name is the id. ntlm and ppk are not supported by this version.", set: setSecretType},
		{key: "private", typ: "file", doc: "Private key: a file in private/ or beside the configuration, PEM or DER, PKCS#8, PKCS#1 or SEC1. All files in private/ are read anyway; this gives one a passphrase or reads another.", set: text(func(s *secretEntry) *string { return &s.private })},
		{key: "passphrase", typ: "text", doc: "Passphrase of the private key, written as psk.", set: setSecret(func(s *secretEntry) *secret.Bytes { return &s.passphrase })},
	}
}

func setSecretType(_ *loader, s *secretEntry, it *Item) error {
	switch it.Value {
	case "ike":
		s.kind = SecretIKE
	case "xauth", "eap":
		s.kind = SecretEAP
	case "ntlm", "ppk":
		return refuse("remove the key or set it to ike", "not supported by this version: type %s", it.Value)
	default:
		return refuse("", "expected ike or xauth, found %s", quote(it.Value))
	}
	return nil
}

// setSecret reads a secret. No message shows any of it.
func setSecret[T any](at func(*T) *secret.Bytes) setter[T] {
	return func(l *loader, s *T, it *Item) error {
		if it.notText {
			return refuse("put it in quotes", "the value is read as a number or truth value, not as text")
		}
		if name, ok := strings.CutPrefix(it.Value, "file:"); ok {
			data, path, err := l.read("", name)
			if err != nil {
				return err
			}
			if err := l.private(path); err != nil {
				return err
			}
			t := strings.TrimSuffix(string(data), "\n")
			t = strings.TrimSuffix(t, "\r")
			if t == "" {
				return refuse("write the secret into it", "the file %s is empty", path)
			}
			*at(s) = secret.New([]byte(t))
			return nil
		}
		b, err := decodeSecret(it.Value)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return refuse("", "the secret is empty")
		}
		*at(s) = secret.New(b)
		l.inline = true
		return nil
	}
}
