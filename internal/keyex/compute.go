package keyex

import (
	"bytes"
	"errors"
	"math"
	"time"

	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/internal/secret"
)

// KESeed is the number of octets of randomness that Compute takes along, because
// Env belongs to the SA's goroutine: more than any private key needs.
const KESeed = 512

// KEResult is the value of a KEReply. Shared is empty when only a key pair was
// wanted.
type KEResult struct {
	Pair   *ke.KeyPair
	Shared secret.Bytes
}

func keResult(r Reply) (KEResult, error) {
	k, ok := r.(KEReply)
	if !ok {
		return KEResult{}, errors.New("the key exchange gave no result")
	}
	v, ok := k.Value.(KEResult)
	if k.Err == nil && !ok {
		k.Err = errors.New("the key exchange gave no result")
	}
	return v, k.Err
}

// cheapKE tells whether a key exchange takes less than handing it over does.
func cheapKE(group uint16) bool {
	return group == suite.KEX25519 || group == suite.KEECP256
}

// Generate makes a key pair.
func Generate(env Env, group uint16) Compute {
	seed := make([]byte, KESeed)
	env.Random(seed)
	return Compute{Cheap: cheapKE(group), Run: func() Reply {
		defer clear(seed)
		pair, err := ke.Generate(group, bytes.NewReader(seed))
		return KEReply{Value: KEResult{Pair: pair}, Err: err}
	}}
}

// Agree makes the shared secret and, where pair is nil, the own key pair before.
func Agree(env Env, group uint16, pair *ke.KeyPair, peer []byte) Compute {
	var seed []byte
	if pair == nil {
		seed = make([]byte, KESeed)
		env.Random(seed)
	}
	peer = bytes.Clone(peer)
	return Compute{Cheap: cheapKE(group), Run: func() Reply {
		defer clear(seed)
		if pair == nil {
			var err error
			if pair, err = ke.Generate(group, bytes.NewReader(seed)); err != nil {
				return KEReply{Err: err}
			}
		}
		shared, err := pair.Shared(peer)
		return KEReply{Value: KEResult{pair, shared}, Err: err}
	}}
}

// Jitter is a uniform duration below d.
func Jitter(env Env, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	var b [8]byte
	env.Random(b[:])
	var v uint64
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return time.Duration(v % uint64(d))
}

// Wait is the n-th wait of the schedule, from 0, with its jitter.
func (r Retransmit) Wait(env Env, n int) time.Duration {
	jitter := r.Jitter
	if r == (Retransmit{Timeout: r.Timeout, Base: r.Base}) {
		jitter = 10
	}
	if r.Timeout == 0 {
		r.Timeout = 2 * time.Second
	}
	if r.Base == 0 {
		r.Base = 1.8
	}
	wait := float64(r.Timeout) * math.Pow(r.Base, float64(n))
	if r.Max != 0 {
		wait = min(wait, float64(r.Max))
	}
	wait -= float64(Jitter(env, time.Duration(wait*float64(min(jitter, 100))/100)))
	return time.Duration(wait)
}

// Limit is the number of waits before the peer is given up.
func (r Retransmit) Limit() int {
	if r.Tries > 0 {
		return r.Tries
	}
	return 5
}
