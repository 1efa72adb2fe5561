package daemon

import (
	"iked/datapath"
	"iked/internal/trace"
	"iked/xfrm"
)

// What a daemon that crashed left is adopted by the backend that made it. When the
// other one is chosen now, it is found and removed here, and blocks until then. That
// it cannot be dealt with keeps no daemon from starting: it goes on blocking.

func (d *process) leftStays(err error) {
	if err != nil {
		d.log.warn(trace.DMN, "what a crashed daemon left with the other backend may stay and block its traffic: %v", err)
	}
}

// cleanKernel deals with what a kernel backend left.
func (d *process) cleanKernel() {
	var err error
	d.left, err = xfrm.CleanUp(d.xfrmOptions())
	d.leftStays(err)
}

// cleanUserspace deals with what a userspace datapath left. A table that another
// daemon works with has no leftovers.
func (d *process) cleanUserspace() {
	if err := d.lockTable(); err != nil {
		return
	}
	var err error
	d.left, err = datapath.CleanUp(d.datapathOptions())
	d.leftStays(err)
	if d.table == nil {
		return
	}
	lock := d.table
	d.table = nil
	if d.left == nil {
		lock.Close()
		return
	}
	go func() {
		<-d.left.Done()
		lock.Close() // the table is free for another daemon
	}()
}

// endLeft removes what is left at the end. A daemon that failed to start leaves it,
// to block until the next start.
func (d *process) endLeft() {
	end := d.left.Close
	if d.back == nil {
		end = d.left.Leave
	}
	if err := end(); err != nil {
		d.log.warn(trace.DMN, "stop: what a crashed daemon left: %v", err)
	}
}
