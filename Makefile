# iked: build, test and install. See README.md.

PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
UNITDIR ?= /lib/systemd/system
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo devel)
GOBUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

.PHONY: all build test demo bench install uninstall fmt vet fuzz clean

all: build

build:
	$(GOBUILD) -o bin/iked ./cmd/iked
	$(GOBUILD) -o bin/ikectl ./cmd/ikectl

test:
	tools/test.sh

# MODE is tunnel, inter-family, transport or beet; BACKEND is userspace or kernel.
# KEYS is psk or kink, which needs the packages krb5-kdc, krb5-admin-server, krb5-user.
# MOBILE=1 lets a gateway move while a ping runs, in mode tunnel.
# KEEP=1 leaves the network up until Ctrl-C.
MODE ?= tunnel
BACKEND ?= userspace
KEYS ?= psk
demo: build
	$(GOBUILD) -o bin/demo ./tools/demo
	bin/demo -iked bin/iked -ikectl bin/ikectl -mode $(MODE) -backend $(BACKEND) -keys $(KEYS) $(if $(MOBILE),-mobile) $(if $(KEEP),-keep)

bench: build
	tools/bench.sh

install: build
	install -D -m 0755 bin/iked $(DESTDIR)$(PREFIX)/sbin/iked
	install -D -m 0755 bin/ikectl $(DESTDIR)$(PREFIX)/bin/ikectl
	install -d -m 0700 $(DESTDIR)$(SYSCONFDIR)/iked
	install -d -m 0755 $(DESTDIR)$(UNITDIR)
	sed 's|@SBINDIR@|$(PREFIX)/sbin|g' packaging/iked.service > $(DESTDIR)$(UNITDIR)/iked.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/iked.service

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/iked $(DESTDIR)$(PREFIX)/bin/ikectl $(DESTDIR)$(UNITDIR)/iked.service

fmt:
	gofmt -w $$(git ls-files '*.go')

vet:
	go vet ./...
	cd tools/bench && go vet ./...

fuzz:
	tools/fuzz.sh

clean:
	rm -rf bin
