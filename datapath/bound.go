package datapath

import (
	"fmt"

	"iked/internal/backend"
	"iked/sad"
	"iked/spd"
)

// unbound refuses what binds policies and SAs to devices and marks: there is one
// device for all of them, and marks are the kernel's.
func unbound(name string, ifID uint32, marks ...spd.Mark) error {
	bound := ifID != 0
	for _, m := range marks {
		bound = bound || m != spd.Mark{}
	}
	if bound {
		return fmt.Errorf("%s: the userspace datapath has one device for all tunnels and binds nothing to interfaces or marks; use the kernel backend: %w", name, backend.ErrUnsupported)
	}
	return nil
}

func unboundSA(sa *sad.SA) error {
	if err := unbound("SA "+sa.Name, sa.IfID, sa.Mark, sa.SetMark); err != nil {
		return err
	}
	if sa.Offload.Must {
		return fmt.Errorf("SA %s: the userspace datapath hands nothing to the device %s; use the kernel backend: %w", sa.Name, sa.Offload.Device, backend.ErrUnsupported)
	}
	return nil
}
