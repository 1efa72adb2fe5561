package kdf

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"testing"

	"iked/crypto/suite"
	"iked/internal/secret"
	"iked/internal/vectors"
)

func cookie(t *testing.T, b []byte) [8]byte {
	t.Helper()
	if len(b) != 8 {
		t.Fatalf("a cookie of %d octets", len(b))
	}
	return [8]byte(b)
}

// SKEYID for both kinds of authentication, its children, and the expansion of
// keys that are too short reproduce NIST's samples for each hash (RFC 2409,
// Section 5 and Appendix B).
func TestIKEv1Samples(t *testing.T) {
	type vector struct {
		Type, PRF   string
		SKEYID      vectors.Hex
		SKEYIDe     vectors.Hex `json:"skeyid_e"`
		SKEYIDd     vectors.Hex `json:"skeyid_d"`
		GXY         vectors.Hex `json:"g_xy"`
		GIR         vectors.Hex `json:"g_ir"`
		GQM         vectors.Hex `json:"g_qm_xy"`
		Prev        vectors.Hex
		CKYi        vectors.Hex `json:"cky_i"`
		CKYr        vectors.Hex `json:"cky_r"`
		PSK, Ni, Nr vectors.Hex
		Seed        vectors.Hex
		Length      int
		Out         vectors.Hex
	}
	ids := map[string]uint16{"sha1": suite.PRFHMACSHA1, "sha256": suite.PRFHMACSHA256, "sha384": suite.PRFHMACSHA384, "sha512": suite.PRFHMACSHA512}
	seen := map[string]int{}
	for _, v := range vectors.Load[vector](t, "nss_ikev1.json") {
		p := mustPRF(t, ids[v.PRF])
		seen[v.Type]++
		switch v.Type {
		case "ikeGxy":
			equal(t, v.Type, SKEYIDSignature(p, v.Ni, v.Nr, secretOf(v.GIR)), v.Out)
		case "ikeV1Psk":
			equal(t, v.Type, SKEYIDPSK(p, secretOf(v.PSK), v.Ni, v.Nr), v.Out)
		case "ikeV1":
			// The samples give the three in turn, each with the one before it.
			k := IKEv1(p, secretOf(v.SKEYID), secretOf(v.GXY), cookie(t, v.CKYi), cookie(t, v.CKYr))
			found := false
			for _, s := range []struct{ key, prev secret.Bytes }{{k.SKEYIDd, secret.Bytes{}}, {k.SKEYIDa, k.SKEYIDd}, {k.SKEYIDe, k.SKEYIDa}} {
				if bytes.Equal(s.prev.Reveal(), v.Prev) {
					found = true
					equal(t, v.Type, s.key, v.Out)
				}
			}
			if !found {
				t.Errorf("no key follows %x", []byte(v.Prev))
			}
		case "ikeV1AppB":
			if v.Length > p.Size() {
				equal(t, v.Type, IKEv1Cipher(p, secretOf(v.SKEYIDe), v.Length), v.Out)
			}
		case "ikeV1AppBQuick":
			equal(t, v.Type, keymat(p, secretOf(v.SKEYIDd), secretOf(v.GQM), v.Seed, v.Length), v.Out)
		}
	}
	for _, typ := range []string{"ikeGxy", "ikeV1Psk", "ikeV1", "ikeV1AppB", "ikeV1AppBQuick"} {
		if seen[typ] < 4 {
			t.Errorf("%d samples of %s", seen[typ], typ)
		}
	}
}

// Whole chains of NIST CAVP.
func TestIKEv1Chains(t *testing.T) {
	type vector struct {
		Case    string
		GXY     vectors.Hex
		PSK     vectors.Hex `json:"preSharedKey"`
		Ni      vectors.Hex `json:"nInit"`
		Nr      vectors.Hex `json:"nResp"`
		CKYi    vectors.Hex `json:"ckyInit"`
		CKYr    vectors.Hex `json:"ckyResp"`
		SKEYID  vectors.Hex `json:"sKeyId"`
		SKEYIDd vectors.Hex `json:"sKeyIdD"`
		SKEYIDa vectors.Hex `json:"sKeyIdA"`
		SKEYIDe vectors.Hex `json:"sKeyIdE"`
	}
	p := mustPRF(t, suite.PRFHMACSHA1)
	for _, v := range vectors.Load[vector](t, "cavp_ikev1_chains.json") {
		s := SKEYIDSignature(p, v.Ni, v.Nr, secretOf(v.GXY))
		if v.Case == "ikev1_psk" {
			s = SKEYIDPSK(p, secretOf(v.PSK), v.Ni, v.Nr)
		}
		k := IKEv1(p, s, secretOf(v.GXY), cookie(t, v.CKYi), cookie(t, v.CKYr))
		equal(t, v.Case+" SKEYID", k.SKEYID, v.SKEYID)
		equal(t, v.Case+" SKEYID_d", k.SKEYIDd, v.SKEYIDd)
		equal(t, v.Case+" SKEYID_a", k.SKEYIDa, v.SKEYIDa)
		equal(t, v.Case+" SKEYID_e", k.SKEYIDe, v.SKEYIDe)
		k.Destroy()
		if !bytes.Equal(k.SKEYIDe.Reveal(), make([]byte, 20)) {
			t.Error("a key is left after Destroy")
		}
	}
}

// Recorded handshakes: keys, hashes and IVs as two real peers computed them.
func TestIKEv1Recorded(t *testing.T) {
	type vector struct {
		Name     string
		Messages []struct{ Hex vectors.Hex }
		PSK      vectors.Hex `json:"psk_hex"`
		GXY      vectors.Hex `json:"g_xy"`
		SKEYID   vectors.Hex
		SKEYIDd  vectors.Hex `json:"skeyid_d"`
		SKEYIDa  vectors.Hex `json:"skeyid_a"`
		SKEYIDe  vectors.Hex `json:"skeyid_e"`
		Key      vectors.Hex `json:"enc_key"`
		IV       vectors.Hex `json:"phase1_iv"`
		Ni       vectors.Hex `json:"ni_b"`
		Nr       vectors.Hex `json:"nr_b"`
		SAi      vectors.Hex `json:"sai_b"`
		IDii     vectors.Hex `json:"idii_b"`
		IDir     vectors.Hex `json:"idir_b"`
		HashI    vectors.Hex `json:"hash_i"`
		HashR    vectors.Hex `json:"hash_r"`
		Last     vectors.Hex `json:"last_phase1_cbc_block"`
		QM       vectors.Hex `json:"qm_message_id"`
		QMIV     vectors.Hex `json:"qm_iv"`
	}
	p := mustPRF(t, suite.PRFHMACSHA1)
	for _, v := range vectors.Load[vector](t, "recorded_ikev1.json") {
		second := v.Messages[1].Hex
		ckyi, ckyr := cookie(t, second[:8]), cookie(t, second[8:16])
		k := IKEv1(p, SKEYIDPSK(p, secretOf(v.PSK), v.Ni, v.Nr), secretOf(v.GXY), ckyi, ckyr)
		equal(t, v.Name+" SKEYID", k.SKEYID, v.SKEYID)
		equal(t, v.Name+" SKEYID_d", k.SKEYIDd, v.SKEYIDd)
		equal(t, v.Name+" SKEYID_a", k.SKEYIDa, v.SKEYIDa)
		equal(t, v.Name+" SKEYID_e", k.SKEYIDe, v.SKEYIDe)
		equal(t, v.Name+" cipher key", IKEv1Cipher(p, k.SKEYIDe, 16), v.Key)
		gxi, gxr := recordedKE(t, v.Messages[0].Hex, v.Messages[2].Hex), recordedKE(t, second, v.Messages[3].Hex)
		x := IKEv1PhaseOne{GXi: gxi, GXr: gxr, CKYi: ckyi, CKYr: ckyr, SAi: v.SAi}
		if got := x.HashI(p, k.SKEYID, v.IDii); !bytes.Equal(got, v.HashI) {
			t.Errorf("%s: HASH_I %x, recorded %x", v.Name, got, []byte(v.HashI))
		}
		if got := x.HashR(p, k.SKEYID, v.IDir); !bytes.Equal(got, v.HashR) {
			t.Errorf("%s: HASH_R %x, recorded %x", v.Name, got, []byte(v.HashR))
		}
		if got := IKEv1PhaseOneIV(sha1.New(), gxi, gxr, 16); !bytes.Equal(got, v.IV) {
			t.Errorf("%s: IV of phase 1 %x, recorded %x", v.Name, got, []byte(v.IV))
		}
		if got := IKEv1PhaseTwoIV(sha1.New(), v.Last, binary.BigEndian.Uint32(v.QM), 16); !bytes.Equal(got, v.QMIV) {
			t.Errorf("%s: IV of Quick Mode %x, recorded %x", v.Name, got, []byte(v.QMIV))
		}
	}
}

// recordedKE is the KE payload of the first of the messages that has one.
func recordedKE(t *testing.T, messages ...[]byte) []byte {
	t.Helper()
	for _, m := range messages {
		next, b := m[16], m[28:]
		for next != 0 && m[19]&1 == 0 {
			n := int(binary.BigEndian.Uint16(b[2:]))
			if next == 4 {
				return b[4:n]
			}
			next, b = b[0], b[n:]
		}
	}
	t.Fatal("no KE payload")
	return nil
}
