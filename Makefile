# cairn: see README.md. `make demo` shows it, `make test` runs every test.
PACKAGES = pkg-config liburing-dev libblkid-dev libdevmapper-dev libisal-dev dmsetup libnbd-bin nbdfuse nbdkit \
           python3-libnbd qemu-utils fio mandoc e2fsprogs xfsprogs fuse3 zstd zsh fish bash-completion python3-prometheus-client jq
PREFIX ?= /usr/local
BIN = .build/release/cairn

.PHONY: deps build demo test check storm format install clean

# Installs what Debian has and this machine lacks; does nothing, and needs neither root nor network, when all is there.
deps:
	@missing=""; for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q "ok installed" || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then echo "deps: all packages are installed"; else \
	echo "deps: installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi

build: deps
	swift build -c release --static-swift-stdlib --product cairn

demo: build
	CAIRN="$(abspath $(BIN))" bash Tests/demo.sh

test: build
	CAIRN="$(abspath $(BIN))" bash Tests/run.sh

check: deps
	swift format lint --strict --recursive Sources Tests Package.swift
	swift build -Xswiftc -warnings-as-errors
	$(MAKE) test

# Storms for STORM_MINUTES over every target: docs/STORM.md.
STORM_MINUTES ?= 10
storm: deps
	swift build -c release --product cairn-storm
	.build/release/cairn-storm --target all --minutes $(STORM_MINUTES) --seed $(or $(STORM_SEED),1)

format:
	swift format --in-place --recursive Sources Tests Package.swift

install: build
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/sbin/cairn
	for p in man/*.[0-9]; do install -D -m 644 $$p $(DESTDIR)$(PREFIX)/share/man/man$${p##*.}/$$(basename $$p); done
	install -D -m 644 completions/cairn.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/cairn
	install -D -m 644 completions/_cairn $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_cairn
	install -D -m 644 completions/cairn.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/cairn.fish

clean:
	rm -rf .build
