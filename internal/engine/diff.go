package engine

import (
	"bytes"
	"reflect"

	"iked/conf"
	"iked/internal/pki"
	"iked/internal/secret"
)

// same compares two values of the configuration by what they say; where they
// were written does not count.
func same(a, b any) bool { return sameValue(reflect.ValueOf(a), reflect.ValueOf(b)) }

var (
	typePos    = reflect.TypeFor[conf.Pos]()
	typeCert   = reflect.TypeFor[*pki.Cert]()
	typeSecret = reflect.TypeFor[secret.Bytes]()
)

func sameValue(a, b reflect.Value) bool {
	if !a.IsValid() || !b.IsValid() || a.Type() != b.Type() {
		return a.IsValid() == b.IsValid()
	}
	switch a.Type() {
	case typePos:
		return true
	case typeCert:
		x, y := a.Interface().(*pki.Cert), b.Interface().(*pki.Cert)
		return x == y || (x != nil && y != nil && bytes.Equal(x.X509.Raw, y.X509.Raw))
	case typeSecret:
		return a.Interface().(secret.Bytes).Equal(b.Interface().(secret.Bytes))
	}
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return sameValue(a.Elem(), b.Elem())
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !sameValue(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		if a.Comparable() && a.Type().PkgPath() != reflect.TypeFor[conf.Config]().PkgPath() {
			return a.Equal(b) // netip.Addr, ident.ID and their like
		}
		for i := range a.NumField() {
			f := a.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if !sameValue(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return a.Comparable() && a.Equal(b)
}

// sameIKE compares two connections without their children.
func sameIKE(a, b *conf.Connection) bool {
	x, y := *a, *b
	x.Children, y.Children = nil, nil
	return same(x, y)
}
