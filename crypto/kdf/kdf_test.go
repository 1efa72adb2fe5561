package kdf

import (
	"bytes"
	"encoding/binary"
	"testing"

	"iked/crypto/aead"
	"iked/crypto/prf"
	"iked/crypto/suite"
	"iked/internal/secret"
	"iked/internal/vectors"
)

func mustPRF(t *testing.T, id uint16) prf.PRF {
	t.Helper()
	p, err := prf.New(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func secretOf(b []byte) secret.Bytes { return secret.New(bytes.Clone(b)) }

func equal(t *testing.T, what string, got secret.Bytes, want []byte) {
	t.Helper()
	if !bytes.Equal(got.Reveal(), want) {
		t.Errorf("%s: %x, want %x", what, got.Reveal(), want)
	}
}

// SKEYSEED, its rekey form and prf+ reproduce NIST's samples for each PRF.
func TestNSS(t *testing.T) {
	type vector struct {
		ID     int
		Type   string
		GIR    vectors.Hex `json:"g_ir"`
		GIRNew vectors.Hex `json:"g_ir_new"`
		SKd    vectors.Hex `json:"sk_d"`
		Ni, Nr vectors.Hex
		Key    vectors.Hex
		Seed   vectors.Hex
		Length int
		Out    vectors.Hex
	}
	for file, id := range map[string]uint16{
		"nss_ike_sha1.json": suite.PRFHMACSHA1, "nss_ike_sha256.json": suite.PRFHMACSHA256,
		"nss_ike_sha384.json": suite.PRFHMACSHA384, "nss_ike_sha512.json": suite.PRFHMACSHA512,
		"nss_ike_aesxcbc.json": suite.PRFAESXCBC,
	} {
		p := mustPRF(t, id)
		for _, v := range vectors.Load[vector](t, file) {
			switch v.Type {
			case "ikeGxy":
				equal(t, file, SKEYSEED(p, v.Ni, v.Nr, secretOf(v.GIR)), v.Out)
			case "ikeV2Rekey":
				equal(t, file, RekeySKEYSEED(p, secretOf(v.SKd), secretOf(v.GIRNew), v.Ni, v.Nr), v.Out)
			case "ikePlus":
				got, err := p.Plus(v.Key, v.Seed, v.Length)
				if err != nil || !bytes.Equal(got, v.Out) {
					t.Errorf("%s %d: prf+ %x (%v), want %x", file, v.ID, got, err, v.Out)
				}
			default:
				t.Errorf("%s %d: unknown type %q", file, v.ID, v.Type)
			}
		}
	}
}

// Whole chains: SKEYSEED, the keys of the IKE SA, child keys without and with a
// new key exchange, and the SKEYSEED of a rekey.
func TestNISTChains(t *testing.T) {
	type vector struct {
		HashAlg                    string
		NInit, NResp               vectors.Hex
		GIR, GIRNew                vectors.Hex
		SPIInit, SPIResp           vectors.Hex
		SKeySeed, SKeySeedReKey    vectors.Hex
		DerivedKeyingMaterial      vectors.Hex
		DerivedKeyingMaterialChild vectors.Hex
		DerivedKeyingMaterialDh    vectors.Hex
	}
	for _, v := range vectors.Load[vector](t, "nist_ikev2_chains.json") {
		p := mustPRF(t, map[string]uint16{"SHA-1": suite.PRFHMACSHA1, "SHA2-256": suite.PRFHMACSHA256}[v.HashAlg])
		seed := SKEYSEED(p, v.NInit, v.NResp, secretOf(v.GIR))
		equal(t, "SKEYSEED", seed, v.SKeySeed)

		// The samples do not divide the material; any lengths that add up do.
		dkm := v.DerivedKeyingMaterial
		rest := len(dkm) - 3*p.Size()
		encr := rest / 4
		integ := rest/2 - encr
		k, err := IKE(p, seed, v.NInit, v.NResp, [8]byte(v.SPIInit), [8]byte(v.SPIResp), encr, integ)
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for _, s := range []secret.Bytes{k.SKd, k.SKai, k.SKar, k.SKei, k.SKer, k.SKpi, k.SKpr} {
			all = append(all, s.Reveal()...)
		}
		if len(all) < len(dkm)-1 || !bytes.Equal(all, dkm[:len(all)]) {
			t.Errorf("keys of the IKE SA: %x, want %x", all, dkm)
		}
		for _, c := range []struct {
			gir  secret.Bytes
			want []byte
		}{{secret.Bytes{}, v.DerivedKeyingMaterialChild}, {secretOf(v.GIRNew), v.DerivedKeyingMaterialDh}} {
			encr, integ := len(c.want)/4, len(c.want)/2-len(c.want)/4
			ck, err := Child(p, k.SKd, c.gir, v.NInit, v.NResp, encr, integ)
			if err != nil {
				t.Fatal(err)
			}
			var all []byte
			for _, s := range []secret.Bytes{ck.EncrI, ck.IntegI, ck.EncrR, ck.IntegR} {
				all = append(all, s.Reveal()...)
			}
			if !bytes.Equal(all, c.want[:len(all)]) || len(all) < len(c.want)-1 {
				t.Errorf("KEYMAT: %x, want %x", all, c.want)
			}
		}
		equal(t, "SKEYSEED of the rekey", RekeySKEYSEED(p, k.SKd, secretOf(v.GIRNew), v.NInit, v.NResp), v.SKeySeedReKey)
	}
}

// A recorded PSK handshake: every key, both AUTH values, the decryption of both
// IKE_AUTH messages, and the order of the child's keys.
func TestRecordedHandshake(t *testing.T) {
	type vector struct {
		PSK           string
		Messages      []vectors.Hex
		GIR           vectors.Hex `json:"g_ir"`
		Ni, Nr        vectors.Hex
		SKEYSEED      vectors.Hex
		SKd           vectors.Hex `json:"sk_d"`
		SKai          vectors.Hex `json:"sk_ai"`
		SKar          vectors.Hex `json:"sk_ar"`
		SKei          vectors.Hex `json:"sk_ei"`
		SKer          vectors.Hex `json:"sk_er"`
		SKpi          vectors.Hex `json:"sk_pi"`
		SKpr          vectors.Hex `json:"sk_pr"`
		AuthIOctets   vectors.Hex `json:"auth_i_octets"`
		AuthI         vectors.Hex `json:"auth_i"`
		AuthR         vectors.Hex `json:"auth_r"`
		ReqInner      vectors.Hex `json:"ike_auth_req_inner"`
		RespInner     vectors.Hex `json:"ike_auth_resp_inner"`
		ChildAES128S1 vectors.Hex `json:"child_keymat_if_esp_aes128_sha1"`
	}
	v := vectors.Load[vector](t, "recorded_handshake.json")[0]
	p := mustPRF(t, suite.PRFHMACSHA1)
	encr := suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128}
	integ := suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA1_96}
	el, il, err := aead.KeyLens(encr, integ)
	if err != nil {
		t.Fatal(err)
	}
	seed := SKEYSEED(p, v.Ni, v.Nr, secretOf(v.GIR))
	equal(t, "SKEYSEED", seed, v.SKEYSEED)
	req, resp := v.Messages[2], v.Messages[3]
	k, err := IKE(p, seed, v.Ni, v.Nr, [8]byte(req[:8]), [8]byte(req[8:16]), el, il)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "SK_d", k.SKd, v.SKd)
	equal(t, "SK_ai", k.SKai, v.SKai)
	equal(t, "SK_ar", k.SKar, v.SKar)
	equal(t, "SK_ei", k.SKei, v.SKei)
	equal(t, "SK_er", k.SKer, v.SKer)
	equal(t, "SK_pi", k.SKpi, v.SKpi)
	equal(t, "SK_pr", k.SKpr, v.SKpr)

	// The inner ID payload stands first: its body follows the generic header.
	body := func(inner []byte) []byte { return inner[4:binary.BigEndian.Uint16(inner[2:])] }
	octets := SignedOctets(p, v.Messages[0], v.Nr, k.SKpi, body(v.ReqInner))
	if !bytes.Equal(octets, v.AuthIOctets) {
		t.Errorf("initiator's signed octets: %x, want %x", octets, v.AuthIOctets)
	}
	if got := PSKAuth(p, secretOf([]byte(v.PSK)), octets); !bytes.Equal(got, v.AuthI) {
		t.Errorf("initiator's AUTH: %x, want %x", got, v.AuthI)
	}
	octets = SignedOctets(p, v.Messages[1], v.Ni, k.SKpr, body(v.RespInner))
	if got := PSKAuth(p, secretOf([]byte(v.PSK)), octets); !bytes.Equal(got, v.AuthR) {
		t.Errorf("responder's AUTH: %x, want %x", got, v.AuthR)
	}

	for _, m := range []struct {
		name      string
		msg, want []byte
		ek, ik    secret.Bytes
	}{{"request", req, v.ReqInner, k.SKei, k.SKai}, {"response", resp, v.RespInner, k.SKer, k.SKar}} {
		c, err := aead.New(encr, integ, m.ek.Reveal(), m.ik.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		var w aead.Scratch
		got, err := c.Open(&w, bytes.Clone(m.msg), 28+4, 0, false)
		if err != nil || !bytes.HasPrefix(got, m.want) {
			t.Errorf("IKE_AUTH %s: %x (%v), want %x", m.name, got, err, m.want)
		}
	}

	ck, err := Child(p, k.SKd, secret.Bytes{}, v.Ni, v.Nr, el, il)
	if err != nil {
		t.Fatal(err)
	}
	m := v.ChildAES128S1
	equal(t, "child encryption key, initiator", ck.EncrI, m[:16])
	equal(t, "child integrity key, initiator", ck.IntegI, m[16:36])
	equal(t, "child encryption key, responder", ck.EncrR, m[36:52])
	equal(t, "child integrity key, responder", ck.IntegR, m[52:72])
}

// RFC 7296, Section 2.14: a PRF with a fixed key takes the first 64 bits of
// each nonce; the others use the nonces whole.
func TestFixedKeyNonces(t *testing.T) {
	ni, nr := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	g := secretOf([]byte("shared"))
	for _, id := range []uint16{suite.PRFAESXCBC, suite.PRFAESCMAC, suite.PRFHMACSHA256} {
		p := mustPRF(t, id)
		same := SKEYSEED(p, ni, nr, g).Equal(SKEYSEED(p, ni[:8], nr[:8], g))
		if same != p.FixedKey() {
			t.Errorf("PRF %d: octets after the eighth of a nonce ignored: %v", id, same)
		}
		equal(t, "nonces", secretOf(ni), bytes.Repeat([]byte{1}, 32)) // inputs stay whole
	}
}

// More key material than prf+ can give is an error, and so is a negative length.
func TestTooMuch(t *testing.T) {
	p := mustPRF(t, suite.PRFAESXCBC)
	if _, err := IKE(p, secretOf([]byte("x")), nil, nil, [8]byte{}, [8]byte{}, 3000, 0); err == nil {
		t.Error("IKE gave more than 255 blocks")
	}
	if _, err := Child(p, secretOf([]byte("x")), secret.Bytes{}, nil, nil, 3000, 0); err == nil {
		t.Error("Child gave more than 255 blocks")
	}
	if _, err := IKE(p, secretOf([]byte("x")), nil, nil, [8]byte{}, [8]byte{}, -1, 0); err == nil {
		t.Error("IKE took a negative length")
	}
	if _, err := Child(p, secretOf([]byte("x")), secret.Bytes{}, nil, nil, 0, -1); err == nil {
		t.Error("Child took a negative length")
	}
}

// Destroy leaves nothing behind.
func TestDestroy(t *testing.T) {
	p := mustPRF(t, suite.PRFHMACSHA256)
	k, err := IKE(p, secretOf([]byte("x")), []byte("n"), []byte("n"), [8]byte{}, [8]byte{}, 36, 0)
	if err != nil {
		t.Fatal(err)
	}
	k.Destroy()
	for _, s := range []secret.Bytes{k.SKd, k.SKei, k.SKer, k.SKpi, k.SKpr} {
		if !bytes.Equal(s.Reveal(), make([]byte, s.Len())) {
			t.Error("a key survived Destroy")
		}
	}
}
