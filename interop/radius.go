package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"iked/internal/testnet"
)

// FreeRADIUSPath is Debian's RADIUS server.
const FreeRADIUSPath = "/usr/sbin/freeradius"

// FreeRADIUSOptions shapes StartFreeRADIUS.
type FreeRADIUSOptions struct {
	Secret string
	// Users is the text of its file of users.
	Users string
	// Bare leaves Message-Authenticator out of its answers, as servers did before
	// CVE-2024-3596.
	Bare bool
}

// StartFreeRADIUS starts the server on 127.0.0.1 of a namespace and waits until it
// listens. It ends with the network.
func StartFreeRADIUS(ctx context.Context, ns *testnet.Namespace, dir string, o FreeRADIUSOptions) (*testnet.Process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	authenticated := "update reply { &Message-Authenticator := 0x00\n }"
	if o.Bare {
		authenticated = ""
	}
	text := strings.NewReplacer("DIR", dir, "SECRET", o.Secret, "AUTHENTICATED", authenticated).Replace(`prefix = /usr
logdir = DIR
raddbdir = DIR
run_dir = DIR
libdir = /usr/lib/freeradius
pidfile = DIR/pid
security { reject_delay = 0
}
log { destination = stdout
 auth = yes
}
client lab { ipaddr = 127.0.0.1
 secret = SECRET
 require_message_authenticator = yes
}
modules {
 files { filename = DIR/users
 }
 pap { }
}
server default {
 listen { type = auth
  ipaddr = 127.0.0.1
  port = 1812
 }
 authorize { files
  pap
 }
 authenticate {
  Auth-Type PAP { pap
  }
 }
 post-auth { AUTHENTICATED
  Post-Auth-Type REJECT { AUTHENTICATED
  }
 }
}
`)
	for name, text := range map[string]string{"radiusd.conf": text, "users": o.Users, "dictionary": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	p, err := ns.Start(testnet.Command{Name: "freeradius", Args: []string{FreeRADIUSPath, "-f", "-l", "stdout", "-d", dir}})
	if err != nil {
		return nil, err
	}
	for !strings.Contains(p.Log(), "Ready to process requests") {
		if !p.Alive() || ctx.Err() != nil {
			return nil, fmt.Errorf("interop: freeradius does not come up:\n%s", p.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return p, nil
}
