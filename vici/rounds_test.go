package vici

import (
	"testing"

	"iked/conf"
	"iked/vici/wire"
)

// A round of XAuth is listed with who knows the users, and the own name.
func TestRoundsOfXAuth(t *testing.T) {
	for want, a := range map[string]*conf.Auth{
		"remote-1 {class=XAuth xauth=radius groups=[] cert_policy=[] certs=[] cacerts=[]}": {Class: conf.AuthXAuth, Users: conf.UsersRadius},
		"remote-1 {class=XAuth xauth=hook groups=[] cert_policy=[] certs=[] cacerts=[]}":   {Class: conf.AuthXAuth, Users: conf.UsersHook},
		"remote-1 {class=XAuth xauth_id=b?b groups=[] cert_policy=[] certs=[] cacerts=[]}": {Class: conf.AuthXAuth, User: "b\tb"},
		"remote-1 {class=pre-shared key groups=[] cert_policy=[] certs=[] cacerts=[]}":     {Class: conf.AuthPSK},
	} {
		var m wire.Message
		rounds(&m, "remote", []*conf.Auth{a})
		if got := raw(m); got != want {
			t.Errorf("got %s, expected %s", got, want)
		}
	}
}
