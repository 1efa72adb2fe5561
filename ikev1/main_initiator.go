package ikev1

import (
	"time"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// Main Mode as initiator (RFC 2409, Sections 5.1 and 5.4; RFC 3947, Section 3).
//
//	HDR, SA, VID                            -->
//	                                        <--  HDR, SA, VID
//	HDR, KE, Ni, NAT-D, NAT-D [, CERTREQ]   -->
//	                                        <--  HDR, KE, Nr, NAT-D, NAT-D [, CERTREQ]
//	HDR*, IDii, [CERT,] HASH_I or SIG_I     -->
//	                                        <--  HDR*, IDir, [CERT,] HASH_R or SIG_R

// offerMain sends the first message.
func (p *phase1) offerMain(now time.Time) {
	list := p.offer(now, false)
	if list == nil {
		return
	}
	p.x.next = p.main2
	p.send(now, false, list...)
}

// main2 takes the choice and begins the Diffie-Hellman exchange.
func (p *phase1) main2(now time.Time, in *incoming) {
	sa := p.sa
	if !p.takeChoice(now, in.Message) {
		return
	}
	in.accept()
	sa.ckyR = in.Header.SPIr
	sa.takeVendors(in.Message)
	p.flow.Run(now, p.generate, func(now time.Time) {
		p.gxi, p.ni = p.pair.Public(), sa.nonce()
		list := append([]message.Payload{&message.Opaque{Kind: message.TypeKE, Data: p.gxi}, &message.Opaque{Kind: message.TypeNonce, Data: p.ni}}, p.certRequest()...)
		p.x.next = p.main4
		p.send(now, false, append(list, sa.natPayloads()...)...)
	})
}

// generate makes our key pair.
func (p *phase1) generate(now time.Time) {
	p.flow.Compute(now, keyex.Generate(p.sa.env, p.group), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			p.fail(now, 0, p.sa.failure(now, trace.StageKE, "the key exchange failed: "+err.Error(), ""))
			return
		}
		p.pair = r.Pair
	})
}

// main4 ends the Diffie-Hellman exchange and proves who we are.
func (p *phase1) main4(now time.Time, in *incoming) {
	sa := p.sa
	public, nonce, ok := p.takeKE(now, in.Message)
	if !ok {
		return
	}
	in.accept()
	p.gxr, p.nr = public, nonce
	p.takeCertificates(in.Message)
	sa.detectNAT(in.Message, in.from)
	p.flow.Run(now, p.agree, func(now time.Time) {
		if !p.derive(now) {
			return
		}
		sa.float()
	}, p.prove, p.sendProof)
}

// agree makes the shared secret.
func (p *phase1) agree(now time.Time) {
	peer := p.gxr
	if !p.sa.initiator {
		peer = p.gxi
	}
	p.flow.Compute(now, keyex.Agree(p.sa.env, p.group, p.pair, peer), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			p.fail(now, message.InvalidKeyInformation, p.sa.failure(now, trace.StageKE, "the peer's public value is refused: "+err.Error(), "this is a fault of the peer, or somebody tries the group's weak spots"))
			return
		}
		p.pair, p.gxy = r.Pair, r.Shared
	})
}

// sendProof sends the fifth message.
func (p *phase1) sendProof(now time.Time) {
	p.x.next = p.main6
	list := p.proofPayloads()
	if p.sa.cfg.InitialContact && p.sa.parent == nil {
		list = append(list, p.sa.initialContact())
	}
	p.send(now, true, list...)
}

// main6 takes the responder's proof.
func (p *phase1) main6(now time.Time, in *incoming) { p.takeProof(now, in, p.established) }

// send sends the next message of phase 1. An initiator repeats it; a responder
// only answers repetitions (CVE-2016-5361).
func (p *phase1) send(now time.Time, encrypted bool, list ...message.Payload) {
	if err := p.sa.send(now, p.x, encrypted, p.sa.initiator && p.x.next != nil, list...); err != nil {
		p.fail(now, 0, p.sa.failure(now, trace.StageConfig, err.Error(), "send fewer certificates, or fewer proposals"))
	}
}
