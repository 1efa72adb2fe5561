package pki

import "iked/internal/trace"

// Step is the step of the identity and certificate check that failed.
type Step string

// Steps, in the order in which they are done.
const (
	StepOwn        Step = "own-certificate"     // no certificate and key of our own fits
	StepMissing    Step = "certificate-missing" // the peer sent none and none is configured
	StepParse      Step = "certificate-parse"
	StepNotAllowed Step = "certificate-not-listed"
	StepIdentity   Step = "identity-not-in-certificate"
	StepKey        Step = "key-refused"
	StepUsage      Step = "usage-refused"
	StepIssuer     Step = "no-issuer"
	StepExpired    Step = "expired"
	StepNotYet     Step = "not-yet-valid"
	StepNotCA      Step = "not-a-ca"
	StepChain      Step = "chain-refused" // path length, name constraints, unknown critical extensions
	StepCAID       Step = "ca-id-missing"
	StepPolicy     Step = "policy-missing"
	StepRevoked    Step = "revoked"
	StepRevocation Step = "revocation-unknown"
	StepSignature  Step = "signature"
)

// Failure is a refusal, with what to change.
type Failure struct {
	Step     Step
	Sentence string
	Evidence []string
	Advice   string
}

func fail(s Step, sentence, advice string, evidence ...string) *Failure {
	return &Failure{Step: s, Sentence: sentence, Advice: advice, Evidence: evidence}
}

// Error implements error.
func (f *Failure) Error() string { return f.Sentence }

// Trace is the failure as the log and `ikectl explain` show it; the caller fills
// in the connection and the addresses.
func (f *Failure) Trace() *trace.Failure {
	stage := trace.StageCert
	switch f.Step {
	case StepIdentity:
		stage = trace.StageIdentity
	case StepSignature:
		stage = trace.StageAuth
	}
	return &trace.Failure{Stage: stage, Sentence: f.Sentence, Evidence: append([]string{"step: " + string(f.Step)}, f.Evidence...), Advice: f.Advice}
}
