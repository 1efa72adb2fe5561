package convert

// unusedRemotes makes connections of the remotes that no policy needed: of those
// that make policies of what the peer proposes, and where a sainfo says what is
// protected.
func (c *converter) unusedRemotes() {
	var left []*remote
	for _, r := range c.remotes {
		if !r.used {
			left = append(left, r)
		}
	}
	for _, r := range left {
		x := c.connect(r, r.addr)
		var infos []*sainfo
		for _, s := range c.sainfos {
			named := s.id != "" && s.id == r.ph1id
			alone := s.id == "" && len(left) == 1 && !s.used
			if named || alone || s.id == "" && s.local.any && s.remote.any && (x.generate || x.passive) {
				infos = append(infos, s)
			}
		}
		for _, s := range infos {
			if c.children > maxOutput {
				break
			}
			c.childOf(x, s)
		}
	}
}

// childOf makes a child of a sainfo alone.
func (c *converter) childOf(x *connection, s *sainfo) {
	if s.local.other != "" || s.remote.other != "" {
		c.note(s.stmt, true, "names are no selectors here: write local_ts and remote_ts of the child by hand")
		return
	}
	if s.local.any && s.remote.any && !x.generate {
		return // it says nothing about what is protected
	}
	write := func(d side, mine bool) (string, error) {
		switch {
		case !d.any && !d.client:
			return selector(d.prefix, anyway(d.proto), d.port)
		case mine && d.any && has(x.keys, "pools"):
			return "0.0.0.0/0", nil
		}
		return "dynamic", nil
	}
	local, err1 := write(s.local, true)
	remote, err2 := write(s.remote, false)
	if err1 != nil || err2 != nil {
		c.note(s.stmt, true, "expected addresses, a protocol and perhaps a port: write the child by hand")
		return
	}
	if !c.room(s.stmt) {
		return
	}
	var child section
	child.set("name", c.unique(x.scope, "net"))
	child.set("local_ts", []string{local})
	child.set("remote_ts", []string{remote})
	c.phase2(&child, s, protection{rule: rule{proto: "esp"}})
	if x.passive || x.generate {
		child.set("start", "passive")
	} else {
		child.set("start", "on-demand")
	}
	x.children = append(x.children, child)
	c.note(s.stmt, false, "the child is made of sainfo alone, in tunnel mode: compare local_ts and remote_ts with the policies, or convert setkey.conf in the same run")
}
