package daemon

import (
	"errors"
	"fmt"
	"strings"

	"iked/conf"
	"iked/datapath"
	"iked/internal/backend"
	"iked/internal/engine"
	"iked/xfrm"
)

// choice is which backend carries the traffic, and why, as half a sentence.
type choice struct {
	name conf.Backend // kernel or userspace
	why  string
}

// prober asks the kernel what it has; interfaces why it has no devices for
// route-based tunnels, nil when it has.
type prober struct {
	kernel     func() (xfrm.Report, error)
	interfaces func() error
}

// remedy is what a person can do about a kernel that carries nothing.
const remedy = "boot a kernel that has it, or load its modules (modprobe xfrm_user esp4 esp6), or use --backend userspace or auto"

// choose decides what carries the traffic of some connections. The kernel is taken
// when it can carry all of them: it is the faster one for many, and what the
// administrator's tools show. Else the userspace datapath, when it can; when neither
// can, the error has both reasons.
func choose(want conf.Backend, conns []*conf.Connection, p prober) (choice, error) {
	switch want {
	case conf.BackendUserspace:
		return choice{want, "as configured"}, fits(userspaceInfo(), nil, conns)
	case conf.BackendKernel:
		r, err := p.kernel()
		if err != nil {
			return choice{}, fmt.Errorf("backend kernel: %w; it needs root or CAP_NET_ADMIN", err)
		}
		if r.Unusable != "" {
			return choice{}, fmt.Errorf("backend kernel: the kernel cannot carry IPsec, because %s; %s", r.Unusable, remedy)
		}
		return choice{want, "as configured" + lacks(&r)}, fits(kernelInfo(&r), p.interfaces, conns)
	case conf.BackendAuto:
	default:
		return choice{}, fmt.Errorf("backend %q is not known, expected auto, kernel or userspace", want)
	}
	r, err := p.kernel()
	switch {
	case err != nil:
		return choice{conf.BackendUserspace, fmt.Sprintf("because the kernel cannot be asked what it has: %v", err)}, fits(userspaceInfo(), nil, conns)
	case r.Unusable != "":
		err = errors.New(r.Unusable)
	default:
		if err = fits(kernelInfo(&r), p.interfaces, conns); err == nil {
			why := "because the kernel has what the configuration needs"
			if len(conns) == 0 {
				why = "because the kernel has it"
			}
			return choice{conf.BackendKernel, why + lacks(&r)}, nil
		}
	}
	if other := fits(userspaceInfo(), nil, conns); other != nil {
		return choice{}, fmt.Errorf("no backend can carry what is configured. Kernel: %w. Userspace: %w", err, other)
	}
	return choice{conf.BackendUserspace, fmt.Sprintf("because of the kernel: %v", err)}, nil
}

// lacks names what a usable kernel has not.
func lacks(r *xfrm.Report) string {
	if len(r.Missing) == 0 {
		return ""
	}
	return "; missing: " + strings.Join(r.Missing, ", ")
}

// fits tells why a backend cannot carry one of the connections.
func fits(info backend.Info, can func() error, conns []*conf.Connection) error {
	for _, c := range conns {
		if err := engine.Unfit(info, can, c); err != nil {
			return err
		}
	}
	return nil
}

func kernelInfo(r *xfrm.Report) backend.Info {
	return backend.Info{Name: "kernel", Supports: r.Supports}
}

func userspaceInfo() backend.Info {
	return backend.Info{Name: "userspace", Supports: datapath.Supports}
}
