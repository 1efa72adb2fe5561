package krb

import (
	"errors"
	"fmt"
	"time"

	"iked/kink"
	"iked/kink/krb/krb5"
)

// Codes of a KDC (RFC 4120, Section 7.5.9) beside those of package kink.
const (
	errClientExpired  = 1  // KDC_ERR_NAME_EXP
	errServiceExpired = 2  // KDC_ERR_SERVICE_EXP
	errNeverValid     = 11 // KDC_ERR_NEVER_VALID
	errPolicy         = 12 // KDC_ERR_POLICY
	errETypeNoSupport = 14 // KDC_ERR_ETYPE_NOSUPP
	errRevoked        = 18 // KDC_ERR_CLIENT_REVOKED
	errKeyExpired     = 23 // KDC_ERR_KEY_EXPIRED
	errPreauthFailed  = 24 // KDC_ERR_PREAUTH_FAILED
	errPreauthNeeded  = 25 // KDC_ERR_PREAUTH_REQUIRED
	errPathRefused    = 28 // KDC_ERR_PATH_NOT_ACCEPTED
	errWrongRealm     = 68 // KDC_ERR_WRONG_REALM
)

// words makes an error one of Kerberos, as the contract says; it is to be deferred.
func words(err *error) { *err = asKerberos(*err) }

// asKerberos gives any error its words.
func asKerberos(err error) error {
	var k *kink.KerberosError
	if err == nil || errors.As(err, &k) {
		return err
	}
	return &kink.KerberosError{Sentence: err.Error(), Temporary: true}
}

// off says how far a clock is off.
func off(d time.Duration) string {
	way := "behind"
	if d < 0 {
		d, way = -d, "ahead of"
	}
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days %s", int(d.Hours()/24), way)
	case d >= 3*time.Hour:
		return fmt.Sprintf("%d h %s", int(d.Hours()+0.5), way)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d min %s", int(d.Minutes()+0.5), way)
	}
	return fmt.Sprintf("%d s %s", int(d.Seconds()+0.5), way)
}

// skewed says that the clocks of this system and of a KDC differ by d.
func skewed(realm string, d time.Duration, allowed time.Duration) *kink.KerberosError {
	return &kink.KerberosError{
		Code:     kink.ErrSkew,
		Sentence: fmt.Sprintf("the clock of this system is %s that of the KDC of realm %s", off(d), realm),
		Advice:   fmt.Sprintf("set the clock, with NTP for example; %v are allowed", allowed),
	}
}

// kdcError says what a KDC's error means. What it says is not authenticated.
func kdcError(now time.Time, skew time.Duration, realm string, client, server kink.Principal, e kink.KRBError) *kink.KerberosError {
	f := &kink.KerberosError{Code: e.Code, Evidence: []string{fmt.Sprintf("the KDC of realm %s answers with error %d", realm, e.Code)}}
	if e.Text != "" {
		f.Evidence = append(f.Evidence, fmt.Sprintf("it says %q", e.Text))
	}
	switch e.Code {
	case kink.ErrClientUnknown:
		f.Sentence = fmt.Sprintf("the principal %s is unknown at the KDC of realm %s", client, realm)
		f.Advice = fmt.Sprintf("add it, with addprinc -randkey %s of kadmin or as a service principal name in Active Directory, or name the right realm", client)
	case kink.ErrServerUnknown:
		f.Sentence = fmt.Sprintf("the principal %s is unknown at the KDC of realm %s", server, realm)
		f.Advice = fmt.Sprintf("add it, with addprinc -randkey %s of kadmin or as a service principal name in Active Directory; or say in krb5.conf, section domain_realm, which realm the host is in", server)
		f.Temporary = true
	case errClientExpired, errRevoked, errKeyExpired:
		f.Sentence = fmt.Sprintf("the KDC of realm %s gives %s no tickets: the principal or its key expired or is locked", realm, client)
		f.Advice = "look at the principal with getprinc of kadmin"
	case errServiceExpired:
		f.Sentence = fmt.Sprintf("the KDC of realm %s gives no tickets for %s: it expired", realm, server)
		f.Advice = "look at the principal with getprinc of kadmin"
	case errPreauthFailed:
		f.Sentence = fmt.Sprintf("the KDC of realm %s does not accept the key of %s", realm, client)
		f.Advice = "the keytab has an old key: extract the current one, with ktadd of kadmin or ktpass"
	case errETypeNoSupport:
		f.Sentence = fmt.Sprintf("the KDC of realm %s and this system have no encryption type in common for %s", realm, server)
		f.Advice = "compare permitted_enctypes in krb5.conf with the keys of the principal; aes256-cts-hmac-sha1-96 is known nearly everywhere"
	case kink.ErrSkew:
		if e.STime.IsZero() || e.STime.Sub(now).Abs() <= skew {
			f.Sentence = fmt.Sprintf("the clock of this system is too far from that of the KDC of realm %s", realm)
			f.Advice = "set the clock, with NTP for example"
			return f
		}
		s := skewed(realm, e.STime.Sub(now), skew)
		f.Sentence, f.Advice = s.Sentence, s.Advice
	case errWrongRealm:
		f.Sentence = fmt.Sprintf("the principal %s is in another realm than %s", client, realm)
		f.Advice = "name the realm that the principal is in"
		if !e.Client.IsZero() && e.Client.Realm() != realm {
			f.Evidence = append(f.Evidence, "the KDC names realm "+e.Client.Realm())
		}
	case kink.ErrUserToUserOnly:
		f.Sentence = fmt.Sprintf("the KDC of realm %s gives tickets for %s by user-to-user only", realm, server)
	case errPolicy, errNeverValid, errPathRefused:
		f.Sentence = fmt.Sprintf("the KDC of realm %s refuses %s a ticket for %s by its policy", realm, client, server)
		f.Advice = "look into the log of the KDC"
	case errUnavailable:
		f.Sentence = fmt.Sprintf("the service of the KDC of realm %s is not available", realm)
		f.Temporary = true
	default:
		f.Sentence = fmt.Sprintf("the KDC of realm %s answers %s with error %d", realm, client, e.Code)
		f.Advice = "look into the log of the KDC"
		f.Temporary = true
	}
	return f
}

// lied says that a KDC's reply is not what was asked for: a fault, or an attack.
func lied(realm, format string, args ...any) *kink.KerberosError {
	return &kink.KerberosError{
		Sentence:  fmt.Sprintf("the reply of the KDC of realm %s is refused: %s", realm, fmt.Sprintf(format, args...)),
		Advice:    "the reply is none to the request; see whether somebody else answers at the address of the KDC",
		Temporary: true,
	}
}

// etypeNames are the names of encryption types, for a person.
func etypeNames(list []int32) (names []string) {
	for _, id := range list {
		names = append(names, krb5.ETypeName(id))
	}
	return names
}

// Panics is how many panics of the Kerberos library were contained.
func Panics() uint64 { return krb5.Panics() }
