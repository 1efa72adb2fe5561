package suite

import (
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func parse1(t testing.TB, proto Protocol, text string) Proposal {
	t.Helper()
	ps, err := ParseProposals(proto, []string{text})
	if err != nil {
		t.Fatalf("%v %q: %v", proto, text, err)
	}
	if len(ps) != 1 {
		t.Fatalf("%v %q: %d proposals", proto, text, len(ps))
	}
	return ps[0]
}

// What people write, and the proposal that it means, printed.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		proto      Protocol
		text, want string
	}{
		{ProtoIKE, "aes128-sha256-modp2048", "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048"},
		{ProtoIKE, "aes128-sha256-x25519", "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/CURVE_25519"},
		{ProtoIKE, "aes-sha1-modp1024", "IKE:AES_CBC_128/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1024"},
		{ProtoIKE, "3des-sha-modp1536", "IKE:3DES_CBC/HMAC_SHA1_96/PRF_HMAC_SHA1/MODP_1536"},
		{ProtoIKE, "aes256gcm16-sha384-ecp384", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384"},
		{ProtoIKE, "aes256gcm16-prfsha384-ecp384", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384"},
		{ProtoIKE, "aes128gcm-prfsha256-curve25519", "IKE:AES_GCM_16_128/PRF_HMAC_SHA2_256/CURVE_25519"},
		{ProtoIKE, "aes192gcm64-aes128gcm96-prfsha256-x25519", "IKE:AES_GCM_8_192/AES_GCM_12_128/PRF_HMAC_SHA2_256/CURVE_25519"},
		{ProtoIKE, "chacha20poly1305-prfsha512-ecp521", "IKE:CHACHA20_POLY1305/PRF_HMAC_SHA2_512/ECP_521"},
		{ProtoIKE, "aes256ctr-aesxcbc-aescmac-modp4096", "IKE:AES_CTR_256/AES_XCBC_96/AES_CMAC_96/PRF_AES128_XCBC/PRF_AES128_CMAC/MODP_4096"},
		{ProtoIKE, "aes128-sha1_160-sha256_96-modp3072", "IKE:AES_CBC_128/HMAC_SHA1_160/HMAC_SHA2_256_96/PRF_HMAC_SHA1/PRF_HMAC_SHA2_256/MODP_3072"},
		{ProtoIKE, "aes128-sha256-prfsha512-modp2048", "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_512/MODP_2048"},
		{ProtoIKE, " aes256 - sha512 - none - modp6144 ", "IKE:AES_CBC_256/HMAC_SHA2_512_256/PRF_HMAC_SHA2_512/MODP_6144"},
		{ProtoIKE, "modp8192-sha2_384-aes192-aes192", "IKE:AES_CBC_192/HMAC_SHA2_384_192/PRF_HMAC_SHA2_384/MODP_8192"},
		{ProtoIKE, "aes128-sha256-ecp256-noesn", "IKE:AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256"},
		{ProtoESP, "aes128gcm16", "ESP:AES_GCM_16_128/NO_EXT_SEQ"},
		{ProtoESP, "aes256gcm128-x25519-esn", "ESP:AES_GCM_16_256/CURVE_25519/EXT_SEQ"},
		{ProtoESP, "aes128-sha256-esn-noesn", "ESP:AES_CBC_128/HMAC_SHA2_256_128/EXT_SEQ/NO_EXT_SEQ"},
		{ProtoESP, "aes128gcm16-sha256-prfsha256", "ESP:AES_GCM_16_128/NO_EXT_SEQ"},
		{ProtoESP, "null-sha512", "ESP:NULL/HMAC_SHA2_512_256/NO_EXT_SEQ"},
		{ProtoESP, "aes256gmac", "ESP:NULL_AES_GMAC_256/NO_EXT_SEQ"},
		{ProtoAH, "aes128gmac-aes256gmac-sha256", "AH:HMAC_SHA2_256_128/AES_128_GMAC/AES_256_GMAC/NO_EXT_SEQ"},
		{ProtoESP, "aes128gcm8-modp2048-none", "ESP:AES_GCM_8_128/MODP_2048/KE_NONE/NO_EXT_SEQ"},
		{ProtoESP, "chacha20poly1305compat", "ESP:CHACHA20_POLY1305_256/NO_EXT_SEQ"},
		{ProtoAH, "sha256", "AH:HMAC_SHA2_256_128/NO_EXT_SEQ"},
		{ProtoAH, "aes128-sha384-esn", "AH:HMAC_SHA2_384_192/EXT_SEQ"},
	} {
		if got := parse1(t, c.proto, c.text).String(); got != c.want {
			t.Errorf("%v %q:\n got %s\nwant %s", c.proto, c.text, got, c.want)
		}
	}
}

// A refusal names the fault and what to write instead.
func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		proto Protocol
		text  string
		want  []string
	}{
		{ProtoIKE, "", []string{"is empty"}},
		{ProtoIKE, "aes128--sha256", []string{"empty keyword"}},
		{ProtoIKE, "aes128-sha256-modp2084", []string{`unknown keyword "modp2084"`, `"modp2048"`}},
		{ProtoIKE, "AES128-sha256-modp2048", []string{`unknown keyword "AES128"`, `"aes128"`}},
		{ProtoESP, "aes129gcm16", []string{`"aes129gcm16"`, `"aes128gcm16"`}},
		{ProtoESP, "curve22519", []string{`"curve25519"`}},
		{ProtoESP, "hippopotamus-of-the-nile", []string{"unknown keyword", "known are: 3des"}},
		{ProtoIKE, "aes128-default", []string{"stands alone"}},
		{ProtoIKE, "sha256-modp2048", []string{"no encryption algorithm"}},
		{ProtoIKE, "aes128-modp2048", []string{"no integrity algorithm", "AES_CBC_128"}},
		{ProtoIKE, "aes128gcm16-modp2048", []string{"no PRF"}},
		{ProtoIKE, "aes128-sha256", []string{"no key exchange"}},
		{ProtoIKE, "aes128-sha256-none", []string{"no key exchange"}},
		{ProtoIKE, "aes128-aes128gcm16-sha256-modp2048", []string{"mixes", "two proposals"}},
		{ProtoIKE, "null-sha256-modp2048", []string{"NULL", "ESP only"}},
		{ProtoIKE, "aes128gmac-prfsha256-modp2048", []string{"ESP only"}},
		{ProtoESP, "sha256", []string{"no encryption algorithm"}},
		{ProtoESP, "null", []string{"NULL", "forgeable"}},
		{ProtoESP, "aes128", []string{"AES_CBC_128", "forgeable"}},
		{ProtoESP, "camellia128-sha256", []string{`"camellia128"`, "does not implement"}},
		{ProtoESP, "aes128ccm16", []string{"AES_CCM_16_128", "does not implement"}},
		{ProtoIKE, "aes128-sha256-curve448", []string{"CURVE_448", "does not implement"}},
		{ProtoIKE, "aes128-sha256-modp768", []string{"MODP_768", "does not implement"}},
		{ProtoIKE, "aes128-sha256-x25519-ke1_mlkem768", []string{`"ke1_mlkem768"`, "does not implement"}},
		{ProtoIKE, "aes128-sha256-x25519-ke8_mlkem768", []string{"unknown keyword"}},
		{ProtoESP, "des-md5_128", []string{"DES_CBC", "does not implement"}},
		{ProtoIKE, "aes128-md5-modp2048", []string{`"md5"`, "must not be used"}},
		{ProtoIKE, "aes128-sha256-prfmd5-modp2048", []string{`"prfmd5"`, "must not be used"}},
		{ProtoESP, "aes128-md5", []string{`"md5"`, "must not be used"}},
		{ProtoAH, "aes128", []string{"no integrity algorithm"}},
		{ProtoNone, "aes128", []string{"expected IKE, ESP or AH"}},
		{ProtoIKE, strings.Repeat("aes128-", 400) + "sha256", []string{"at most 2047"}},
	} {
		ps, err := ParseProposals(c.proto, []string{c.text})
		if err == nil {
			t.Errorf("%v %q: accepted as %v", c.proto, clip(c.text), ps)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v %q: %q does not say %q", c.proto, clip(c.text), err, w)
			}
		}
	}
}

// "default" stands for the defaults, in place and in any case.
func TestDefaultKeyword(t *testing.T) {
	ps, err := ParseProposals(ProtoESP, []string{"null-sha1", "DeFault", "aes128gcm16-esn"})
	if err != nil {
		t.Fatal(err)
	}
	want := append([]Proposal{parse1(t, ProtoESP, "null-sha1")}, Defaults(ProtoESP)...)
	want = append(want, parse1(t, ProtoESP, "aes128gcm16-esn"))
	if d := cmp.Diff(want, ps); d != "" {
		t.Error(d)
	}
	if ps, err := ParseProposals(ProtoIKE, nil); err != nil || len(ps) != 0 {
		t.Errorf("no items: %v, %v", ps, err)
	}
}

// The defaults are modern, implemented, and fit themselves: nothing that RFC
// 8247 or RFC 8221 discourages (3DES, SHA-1, MD5, MODP below 2048), 2048 last.
func TestDefaults(t *testing.T) {
	for _, proto := range []Protocol{ProtoIKE, ProtoESP, ProtoAH} {
		for _, p := range Defaults(proto) {
			text := p.String()
			for _, old := range []string{"3DES", "SHA1", "MD5", "MODP_1024", "MODP_1536", "NULL", "EXT_SEQ/EXT"} {
				if strings.Contains(text, old) {
					t.Errorf("default %s contains %s", text, old)
				}
			}
			if p.ESN() {
				t.Errorf("default %s wants 64-bit sequence numbers", text)
			}
			for _, x := range p.Transforms {
				if !x.Implemented() {
					t.Errorf("default %s: %v is not implemented", text, x)
				}
			}
			if proto == ProtoIKE && !strings.HasSuffix(text, "MODP_3072/MODP_4096/MODP_6144/MODP_8192/MODP_2048") {
				t.Errorf("default %s: MODP_2048 is not last", text)
			}
			if _, mm := Select([]Proposal{p}, []Proposal{p}, Options{}); mm != nil {
				t.Errorf("default %s does not fit itself: %v", text, mm)
			}
		}
	}
	if got := Defaults(ProtoESP)[0].String(); got != "ESP:AES_GCM_16_128/AES_GCM_16_192/AES_GCM_16_256/CHACHA20_POLY1305/NO_EXT_SEQ" {
		t.Errorf("first ESP default %s", got)
	}
	if Defaults(ProtoNone) != nil {
		t.Error("a protocol without proposals has defaults")
	}
}

// Every keyword has a printed name, and every one that is offered is implemented.
func TestKeywords(t *testing.T) {
	for k, x := range keywords() {
		if strings.HasPrefix(x.Name(), "(") {
			t.Errorf("keyword %q has no printed name", k)
		}
	}
	list := Keywords()
	if len(list) < 60 {
		t.Errorf("only %d keywords", len(list))
	}
	for _, k := range list {
		if k == "camellia" || k == "aes128ccm16" || k == "x448" || k == "mlkem768" {
			t.Errorf("keyword %q is not implemented", k)
		}
	}
}

// Names are those of the VICI protocol; unknown numbers print as (n).
func TestNames(t *testing.T) {
	for _, c := range []struct {
		t          Transform
		name, text string
	}{
		{Transform{ENCR, EncrAESGCM16, 128}, "AES_GCM_16", "AES_GCM_16_128"},
		{Transform{ENCR, EncrAESCBC, 256}, "AES_CBC", "AES_CBC_256"},
		{Transform{ENCR, EncrChaCha20Poly1305, 0}, "CHACHA20_POLY1305", "CHACHA20_POLY1305"},
		{Transform{ENCR, Encr3DES, 0}, "3DES_CBC", "3DES_CBC"},
		{Transform{ENCR, 99, 128}, "(99)", "(99)_128"},
		{Transform{PRF, PRFAESCMAC, 0}, "PRF_AES128_CMAC", "PRF_AES128_CMAC"},
		{Transform{INTEG, IntegHMACSHA256_96, 0}, "HMAC_SHA2_256_96", "HMAC_SHA2_256_96"},
		{Transform{INTEG, IntegNone, 0}, "NONE", "NONE"},
		{Transform{KE, 36, 0}, "ML_KEM_768", "ML_KEM_768"},
		{Transform{KE, 4711, 0}, "(4711)", "(4711)"},
		{Transform{SN, SNESN, 0}, "EXT_SEQ", "EXT_SEQ"},
		{Transform{SN, 2, 0}, "(2)", "(2)"},
		{Transform{9, 1, 0}, "(1)", "(1)"},
	} {
		if c.t.Name() != c.name || c.t.String() != c.text {
			t.Errorf("%d/%d: %s and %s, want %s and %s", c.t.Type, c.t.ID, c.t.Name(), c.t, c.name, c.text)
		}
	}
	p := Proposal{Protocol: 9, Transforms: []Transform{{Type: 7, ID: 36}, {Type: ENCR, ID: EncrNull}}}
	if got := p.String(); got != "(9):NULL/TYPE_7_(36)" {
		t.Errorf("unknown protocol and type: %s", got)
	}
}

// Any text gives an error, or proposals that can be used as they are.
func TestParseProperty(t *testing.T) {
	words := make([]string, 0, 128)
	for k := range keywords() {
		words = append(words, k)
	}
	words = append(words, "", "AES128", "nonsense", "ke1_x25519")
	sort.Strings(words)
	rapid.Check(t, func(t *rapid.T) {
		proto := rapid.SampledFrom([]Protocol{ProtoIKE, ProtoESP, ProtoAH}).Draw(t, "protocol")
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 1, 6).Draw(t, "words"), "-")
		ps, err := ParseProposals(proto, []string{text})
		if err != nil {
			return
		}
		for _, p := range ps {
			for _, x := range p.Transforms {
				if !x.Implemented() || roleOf(proto, x.Type) == undefined {
					t.Fatalf("%q gives %v", text, p)
				}
			}
			if _, mm := Select(ps, ps, Options{AllowPrivate: true}); mm != nil {
				t.Fatalf("%q does not fit itself: %v", text, mm)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"default", "aes128-sha256-x25519", "aes128gcm16", "ke1_none", "-", "aes128gcm16-esn-noesn"} {
		f.Add(uint8(ProtoIKE), s)
		f.Add(uint8(ProtoESP), s)
	}
	f.Fuzz(func(t *testing.T, proto uint8, s string) {
		ps, err := ParseProposals(Protocol(proto), []string{s})
		if err == nil && len(ps) == 0 {
			t.Error("neither a proposal nor an error")
		}
	})
}
