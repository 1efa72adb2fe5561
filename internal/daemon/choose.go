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
	kernel     func() (kernelHas, error)
	interfaces func() error
}

// kernelHas is what the choice needs of an xfrm.Report.
type kernelHas struct {
	missing  []string
	unusable string
	info     backend.Info
}

func askKernel() (kernelHas, error) {
	r, err := xfrm.Probe()
	return kernelHas{r.Missing, r.Unusable, backend.Info{Name: "kernel", Supports: r.Supports}}, err
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
			return choice{}, fmt.Errorf("backend kernel: %w", err)
		}
		if r.unusable != "" {
			return choice{}, fmt.Errorf("backend kernel: %s; %s", r.unusable, remedy)
		}
		return choice{want, "as configured" + r.lacks()}, fits(r.info, p.interfaces, conns)
	case conf.BackendAuto:
	default:
		return choice{}, fmt.Errorf("backend %q is not known, expected auto, kernel or userspace", want)
	}
	r, err := p.kernel()
	switch {
	case err != nil:
		return choice{conf.BackendUserspace, fmt.Sprintf("because the kernel cannot be asked what it has: %v", err)}, fits(userspaceInfo(), nil, conns)
	case r.unusable != "":
		err = errors.New(r.unusable)
	default:
		if err = fits(r.info, p.interfaces, conns); err == nil {
			why := "because the kernel has what the configuration needs"
			if len(conns) == 0 {
				why = "because the kernel has it"
			}
			return choice{conf.BackendKernel, why + r.lacks()}, nil
		}
	}
	if other := fits(userspaceInfo(), nil, conns); other != nil {
		return choice{}, fmt.Errorf("no backend can carry what is configured. Kernel: %w. Userspace: %w", err, other)
	}
	why := fmt.Sprintf("because %v", err)
	if r.unusable == "" {
		why = fmt.Sprintf("because the kernel cannot carry all that is configured: %v", err)
	}
	return choice{conf.BackendUserspace, why}, nil
}

// lacks names what a usable kernel has not.
func (r *kernelHas) lacks() string {
	if len(r.missing) == 0 {
		return ""
	}
	return "; missing: " + strings.Join(r.missing, ", ")
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

func userspaceInfo() backend.Info {
	return backend.Info{Name: "userspace", Supports: datapath.Supports}
}
