// Package message is the codec of IKEv2 (RFC 7296, Section 3; fragmentation is
// RFC 7383). It turns octets into messages and back, seals and opens the
// Encrypted payload through a cipher that the caller brings, and knows no state.
//
// A message is read in two steps. Parse (in clear) or ParseInner (what Open
// took out of an Encrypted payload) walk the chain of payloads once and give a
// Message. A typed view per exchange (ParseIKESAInitRequest and its siblings)
// then guarantees that what the exchange requires is there, once.
//
// Payloads never alias the octets that were parsed: the chain is copied once.
// Inside one message the payloads share that copy, so who keeps a small part
// of a message for long should clone it.
//
// Every error is an *Error, which says what to put on the wire.
package message
