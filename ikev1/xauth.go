package ikev1

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
)

// XAuth (draft-beaulieu-ike-xauth): the server asks for a name and a password
// behind phase 1, and tells whether they are right.
//
//	server                             client
//	REQUEST(USER_NAME, USER_PASSWORD)  -->
//	                                   <--  REPLY(USER_NAME, USER_PASSWORD)
//	SET(STATUS)                        -->
//	                                   <--  ACK(STATUS)

// maxUser bounds the name and the password of a user, in octets.
const maxUser = 256

// askUser is the server's beginning.
func (sa *SA) askUser(now time.Time) {
	sa.transact(now, "XAUTH", message.CfgRequest, []message.Attribute{message.Variable(xauthUser, nil), message.Variable(xauthPassword, nil)}, func(now time.Time, a *message.Attributes) {
		user, okU := find(a.List, xauthUser)
		password, okP := find(a.List, xauthPassword)
		if !okU || !okP || len(user.Value) == 0 || len(user.Value) > maxUser || len(password.Value) > maxUser {
			sa.tellStatus(now, sa.failure(now, trace.StageAuth, "the peer "+sa.remoteID.String()+" gave no user name or no password", "configure a user at the peer"))
			return
		}
		// Some clients write the zero octet behind a password that C has.
		password.Value = bytes.TrimSuffix(password.Value, []byte{0})
		w := keyex.CheckUser{Config: sa.cfg, Peer: sa.remoteID, From: sa.remote, User: string(user.Value), Password: secret.New(append([]byte(nil), password.Value...))}
		sa.Ask(w, func(now time.Time, r keyex.Reply) {
			switch u, ok := r.(keyex.UserReply); {
			case !ok || u.Unavailable:
				sa.tellStatus(now, sa.failure(now, trace.StageAuth, fmt.Sprintf("the user %q of the peer %v cannot be checked: %v", w.User, sa.remoteID, u.Err), "see to it that who knows the users is there"))
				return
			case u.Err != nil:
				sa.tellStatus(now, sa.failure(now, trace.StageAuth, fmt.Sprintf("the user %q of the peer %v is refused: %v", w.User, sa.remoteID, u.Err), "compare what the user types with what is known of the user"))
				return
			default:
				sa.user, sa.fixed = w.User, u.Address
			}
			sa.tellStatus(now, nil)
		})
	})
}

// tellStatus ends XAuth; nil: the user is right.
func (sa *SA) tellStatus(now time.Time, f *trace.Failure) {
	v := uint16(1)
	if f != nil {
		v = 0
		// Whether the client acknowledges it or not.
		sa.refusal = f
		sa.log(now, trace.Control, true, "%s", f.Sentence)
	}
	sa.transact(now, "XAUTH", message.CfgSet, []message.Attribute{message.Basic(xauthStatus, v)}, func(now time.Time, _ *message.Attributes) {
		if f != nil {
			sa.tellEnd(now)
			sa.close(now, keyex.Closed{Reason: keyex.CloseFailed, Failure: f})
			return
		}
		sa.log(now, trace.Control, false, "the user %q is authenticated by XAuth", sa.user)
		sa.configure(now)
	})
}

// answerUser is the client's answer.
func (sa *SA) answerUser(now time.Time, list []message.Attribute, answer func(time.Time, []message.Attribute)) {
	if sa.cfg.V1.XAuth != keyex.XAuthClient {
		sa.log(now, trace.Control, true, "the peer %v asks for a user name and a password, which this connection has not: add a second round of local authentication with auth: xauth", sa.remoteID)
		return
	}
	if m, ok := find(list, xauthMessage); ok {
		sa.log(now, trace.Control, false, "the peer %v says: %s", sa.remoteID, shown(m.Value))
	}
	if asksMore(list) {
		// draft-beaulieu-ike-xauth, Section 5: a status of 0 instead of an answer.
		answer(now, []message.Attribute{message.Basic(xauthStatus, 0)})
		f := sa.failure(now, trace.StageAuth, "the peer asks the user "+sa.cfg.V1.User+" for more than a password, as for a one-time password, which is not supported by this version", "let the peer ask for a name and a password (XAUTH-TYPE generic)")
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		sa.close(now, keyex.Closed{Reason: keyex.CloseFailed, Failure: f})
		return
	}
	sa.Ask(keyex.UserSecret{Config: sa.cfg, User: sa.cfg.V1.User}, func(now time.Time, r keyex.Reply) {
		s, ok := r.(keyex.SecretReply)
		if !ok || s.Err != nil {
			f := sa.failure(now, trace.StageAuth, "the peer asks for the password of "+sa.cfg.V1.User+", and there is none", "add a secret of type xauth with this id")
			sa.log(now, trace.Control, true, "%s", f.Sentence)
			sa.close(now, keyex.Closed{Reason: keyex.CloseFailed, Failure: f})
			return
		}
		var out []message.Attribute
		if t, ok := find(list, xauthType); ok {
			out = append(out, t)
		}
		answer(now, append(out, message.Variable(xauthUser, []byte(sa.cfg.V1.User)), message.Variable(xauthPassword, s.Secret.Reveal())))
	})
}

// asksMore tells whether a server asks for more than a name and a password, or for
// them in another form than the generic one.
func asksMore(list []message.Attribute) bool {
	return slices.ContainsFunc(list, func(a message.Attribute) bool {
		switch a.Type {
		case xauthType:
			n, ok := a.Uint()
			return !ok || n != 0
		case xauthPasscode, xauthChallenge, xauthNextPIN, xauthAnswer:
			return true
		}
		return false
	})
}

// takeStatus is the end of XAuth at the client.
func (sa *SA) takeStatus(now time.Time, status message.Attribute, answer func(time.Time, []message.Attribute)) {
	if sa.cfg.V1.XAuth != keyex.XAuthClient || sa.state == keyex.Established {
		sa.dropped(now, "wrong-state", "XAuth is not going on")
		return
	}
	v, _ := status.Uint()
	answer(now, []message.Attribute{message.Basic(xauthStatus, uint16(v))})
	sa.userDone = v == 1
	if v != 1 {
		f := sa.failure(now, trace.StageAuth, "the peer refused the user "+sa.cfg.V1.User+" or its password", "compare the user and the password with the peer's")
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		sa.close(now, keyex.Closed{Reason: keyex.CloseFailed, Failure: f})
		return
	}
	sa.configure(now)
}
