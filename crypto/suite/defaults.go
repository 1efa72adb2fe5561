package suite

// Defaults returns the proposals offered and accepted when the configuration
// names none: combined-mode ciphers first, then AES-CBC with HMAC-SHA2. They
// hold nothing that RFC 8247 or RFC 8221 discourages; older algorithms must be
// named. Protocols other than IKE, ESP and AH have none.
func Defaults(proto Protocol) []Proposal {
	gcm := sizes(EncrAESGCM16)
	chacha := []Transform{{ENCR, EncrChaCha20Poly1305, 0}}
	cbc := sizes(EncrAESCBC)
	sha2 := []Transform{{INTEG, IntegHMACSHA256, 0}, {INTEG, IntegHMACSHA384, 0}, {INTEG, IntegHMACSHA512, 0}}
	noESN := []Transform{{SN, SNNoESN, 0}}
	switch proto {
	case ProtoIKE:
		prf := []Transform{{PRF, PRFHMACSHA256, 0}, {PRF, PRFHMACSHA384, 0}, {PRF, PRFHMACSHA512, 0}}
		var ke []Transform
		for _, id := range []uint16{
			KEX25519, KEECP256, KEECP384, KEECP521,
			KEMODP3072, KEMODP4096, KEMODP6144, KEMODP8192, KEMODP2048,
		} {
			ke = append(ke, Transform{KE, id, 0})
		}
		return []Proposal{
			{ProtoIKE, join(gcm, chacha, prf, ke)},
			{ProtoIKE, join(cbc, sha2, prf, ke)},
		}
	case ProtoESP:
		return []Proposal{
			{ProtoESP, join(gcm, chacha, noESN)},
			{ProtoESP, join(cbc, sha2, noESN)},
		}
	case ProtoAH:
		return []Proposal{{ProtoAH, join(sha2, noESN)}}
	}
	return nil
}

func sizes(id uint16) []Transform {
	return []Transform{{ENCR, id, 128}, {ENCR, id, 192}, {ENCR, id, 256}}
}
