// Package message is the codec of IKEv1: ISAKMP messages (RFC 2408), the
// payloads of the IPsec DOI (RFC 2407), of Mode Config and XAuth, of NAT
// traversal (RFC 3947) and the proprietary fragment. It holds no state and no
// keys; encryption and hashes are its caller's. KINK uses the payloads of Quick
// Mode too (RFC 4430, Section 4.2.6).
package message
