/* Writes structures of the kernel's header with the values of the tests, in hex. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <stddef.h>
#include <linux/xfrm.h>

static void show(const char *name, const void *p, size_t n)
{
	printf("%s ", name);
	for (size_t i = 0; i < n; i++)
		printf("%02x", ((const unsigned char *)p)[i]);
	printf("\n");
}

int main(void)
{
	xfrm_address_t left, right;
	memset(&left, 0, sizeof left);
	inet_pton(AF_INET, "192.0.2.1", &left);
	inet_pton(AF_INET6, "2001:db8::2", &right);

	struct xfrm_selector sel;
	memset(&sel, 0, sizeof sel);
	sel.daddr = right; sel.saddr = left;
	sel.dport = htons(0x0102); sel.dport_mask = htons(0x0304); sel.sport = htons(0x0506); sel.sport_mask = htons(0x0708);
	sel.family = 10; sel.prefixlen_d = 64; sel.prefixlen_s = 32; sel.proto = 17; sel.ifindex = 0x090a0b0c; sel.user = 0x0d0e0f10;
	show("selector", &sel, sizeof sel);

	struct xfrm_usersa_info sa;
	memset(&sa, 0, sizeof sa);
	sa.sel = sel; sa.id.daddr = left; sa.id.spi = htonl(0x11121314); sa.id.proto = 50; sa.saddr = right;
	sa.lft = (struct xfrm_lifetime_cfg){ .soft_byte_limit = 1, .hard_byte_limit = 2, .soft_packet_limit = 3, .hard_packet_limit = 4,
		.soft_add_expires_seconds = 5, .hard_add_expires_seconds = 6, .soft_use_expires_seconds = 7, .hard_use_expires_seconds = 8 };
	sa.curlft = (struct xfrm_lifetime_cur){ .bytes = 9, .packets = 10, .add_time = 11, .use_time = 12 };
	sa.stats = (struct xfrm_stats){ .replay_window = 13, .replay = 14, .integrity_failed = 15 };
	sa.seq = 16; sa.reqid = 17; sa.family = 2; sa.mode = XFRM_MODE_BEET; sa.replay_window = 32;
	sa.flags = XFRM_STATE_NOECN | XFRM_STATE_AF_UNSPEC | XFRM_STATE_ALIGN4 | XFRM_STATE_ESN;
	show("sa", &sa, sizeof sa);

	struct xfrm_usersa_id id;
	memset(&id, 0, sizeof id);
	id.daddr = left; id.spi = htonl(0x31323334); id.family = 2; id.proto = 50;
	show("sa_id", &id, sizeof id);

	struct xfrm_user_tmpl t;
	memset(&t, 0, sizeof t);
	t.id.daddr = left; t.id.spi = htonl(0x21222324); t.id.proto = 51; t.family = 2; t.saddr = right; t.reqid = 18;
	t.mode = 1; t.share = 2; t.optional = 3; t.aalgos = 0xfffffff1; t.ealgos = 0xfffffff2; t.calgos = 0xfffffff3;
	show("template", &t, sizeof t);

	struct xfrm_userpolicy_info p;
	memset(&p, 0, sizeof p);
	p.sel = sel;
	p.lft = (struct xfrm_lifetime_cfg){ .soft_byte_limit = 21, .hard_byte_limit = 22, .soft_packet_limit = 23, .hard_packet_limit = 24,
		.soft_add_expires_seconds = 25, .hard_add_expires_seconds = 26, .soft_use_expires_seconds = 27, .hard_use_expires_seconds = 28 };
	p.curlft = (struct xfrm_lifetime_cur){ .bytes = 29, .packets = 30, .add_time = 31, .use_time = 32 };
	p.priority = 33; p.index = 34; p.dir = XFRM_POLICY_FWD; p.action = XFRM_POLICY_BLOCK; p.flags = XFRM_POLICY_ICMP; p.share = 3;
	show("policy", &p, sizeof p);

	struct xfrm_userpolicy_id pid;
	memset(&pid, 0, sizeof pid);
	pid.sel = sel; pid.index = 35; pid.dir = XFRM_POLICY_OUT;
	show("policy_id", &pid, sizeof pid);

	struct xfrm_userspi_info spi;
	memset(&spi, 0, sizeof spi);
	spi.info = sa; spi.min = 256; spi.max = 0xffffffff;
	show("spi", &spi, sizeof spi);

	struct xfrm_user_acquire acq;
	memset(&acq, 0, sizeof acq);
	acq.id.daddr = left; acq.id.proto = 50; acq.saddr = right; acq.sel = sel; acq.policy = p;
	acq.aalgos = 36; acq.ealgos = 37; acq.calgos = 38; acq.seq = 39;
	show("acquire", &acq, sizeof acq);

	struct xfrm_user_expire e;
	memset(&e, 0, sizeof e);
	e.state = sa; e.hard = 1;
	show("expire", &e, sizeof e);

	struct xfrm_user_polexpire pe;
	memset(&pe, 0, sizeof pe);
	pe.pol = p; pe.hard = 1;
	show("polexpire", &pe, sizeof pe);

	struct xfrm_aevent_id ae;
	memset(&ae, 0, sizeof ae);
	ae.sa_id = id; ae.saddr = right; ae.flags = XFRM_AE_RVAL; ae.reqid = 40;
	show("ae", &ae, sizeof ae);

	struct xfrm_user_report r;
	memset(&r, 0, sizeof r);
	r.proto = 60; r.sel = sel;
	show("report", &r, sizeof r);

	struct xfrm_user_mapping map;
	memset(&map, 0, sizeof map);
	map.id = id; map.reqid = 46; map.old_saddr = left; map.new_saddr = right; map.old_sport = htons(4500); map.new_sport = htons(4501);
	show("mapping", &map, sizeof map);

	struct xfrm_user_migrate m;
	memset(&m, 0, sizeof m);
	m.old_daddr = left; m.old_saddr = left; m.new_daddr = right; m.new_saddr = right; m.proto = 50; m.mode = 1; m.reqid = 11;
	m.old_family = 2; m.new_family = 10;
	show("migrate", &m, sizeof m);

	struct xfrm_user_kmaddress k;
	memset(&k, 0, sizeof k);
	k.local = left; k.remote = right; k.family = 2;
	show("kmaddress", &k, sizeof k);

	struct xfrm_encap_tmpl encap;
	memset(&encap, 0, sizeof encap);
	encap.encap_type = 2; encap.encap_sport = htons(4500); encap.encap_dport = htons(4501); encap.encap_oa = left;
	show("encap", &encap, sizeof encap);

	struct { struct xfrm_replay_state_esn s; __u32 bmp[2]; } esn;
	memset(&esn, 0, sizeof esn);
	esn.s.bmp_len = 2; esn.s.oseq = 15; esn.s.seq = 16; esn.s.oseq_hi = 17; esn.s.seq_hi = 18; esn.s.replay_window = 64;
	esn.bmp[0] = 19; esn.bmp[1] = 20;
	show("replay_esn", &esn, sizeof esn);

	struct xfrm_replay_state rs = { .oseq = 5, .seq = 6, .bitmap = 7 };
	show("replay", &rs, sizeof rs);

	struct xfrm_user_offload off;
	memset(&off, 0, sizeof off);
	off.ifindex = 21; off.flags = XFRM_OFFLOAD_INBOUND;
	show("offload", &off, sizeof off);

	struct xfrm_address_filter f;
	memset(&f, 0, sizeof f);
	f.saddr = left; f.daddr = right; f.family = 10; f.splen = 64; f.dplen = 128;
	show("filter", &f, sizeof f);

	struct { struct xfrm_algo_aead a; char key[20]; } aead;
	memset(&aead, 0, sizeof aead);
	strcpy(aead.a.alg_name, "rfc4106(gcm(aes))"); aead.a.alg_key_len = 160; aead.a.alg_icv_len = 128;
	memset((char *)&aead + sizeof aead.a, 3, 20);
	show("aead", &aead, sizeof aead);

	struct xfrmu_spdinfo si = { 1, 2, 3, 4, 5, 6 };
	show("spdinfo", &si, sizeof si);
	struct xfrm_userpolicy_default d = { .in = 1, .fwd = 2, .out = 0 };
	show("default", &d, sizeof d);
	printf("numbers %d %d %d %d %d %d %d %d %d\n", XFRM_MSG_NEWSA, XFRM_MSG_GETDEFAULT, XFRM_MSG_MAPPING, XFRM_MSG_MIGRATE, XFRMA_MTIMER_THRESH,
		XFRMA_IF_ID, XFRMA_OFFLOAD_DEV, XFRMA_REPLAY_ESN_VAL, XFRMNLGRP_MAPPING);
	return 0;
}
