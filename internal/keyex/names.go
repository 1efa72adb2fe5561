package keyex

// String is the name of the control protocol.
func (s SAState) String() string {
	switch s {
	case Created:
		return "CREATED"
	case Connecting:
		return "CONNECTING"
	case Established:
		return "ESTABLISHED"
	case Rekeying:
		return "REKEYING"
	case Rekeyed:
		return "REKEYED"
	case Deleting:
		return "DELETING"
	}
	return "DESTROYING"
}

// String is the name of the control protocol.
func (s ChildState) String() string {
	switch s {
	case ChildCreated:
		return "CREATED"
	case ChildInstalling:
		return "INSTALLING"
	case ChildInstalled:
		return "INSTALLED"
	case ChildUpdating:
		return "UPDATING"
	case ChildRekeying:
		return "REKEYING"
	case ChildRekeyed:
		return "REKEYED"
	case ChildDeleting:
		return "DELETING"
	}
	return "DELETED"
}

// String names the reason in a few words.
func (r CloseReason) String() string {
	switch r {
	case CloseAsked:
		return "asked"
	case ClosePeerDeleted:
		return "deleted by the peer"
	case CloseFailed:
		return "failed"
	case CloseTimeout:
		return "timeout"
	case CloseRekeyed:
		return "rekeyed"
	case CloseExpired:
		return "expired"
	case CloseHalfOpen:
		return "half-open"
	case CloseReplaced:
		return "replaced"
	case CloseInternal:
		return "internal error"
	case CloseRetry:
		return "retry"
	}
	return "unknown"
}
