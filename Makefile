# cairn: see README.md. `make demo` shows it, `make test` runs every test.
PACKAGES = pkg-config liburing-dev libblkid-dev libdevmapper-dev libisal-dev dmsetup libnbd-bin nbdfuse nbdkit \
           python3-libnbd qemu-utils fio mandoc e2fsprogs xfsprogs fuse3 zsh fish bash-completion python3-prometheus-client jq \
           zstd valgrind
PREFIX ?= /usr/local
BIN = .build/release/cairn

.PHONY: deps build bench-tools demo test check storm mutants fuzz fuzz-merge bench bench-full bench-limit bars micro format install clean

# Installs what Debian has and this machine lacks; does nothing, and needs neither root nor network, when all is there.
deps:
	@missing=""; for p in $(PACKAGES); do command -v $$p > /dev/null && continue; dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q "ok installed" || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then echo "deps: all packages are installed"; else \
	echo "deps: installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi

build: deps
	swift build -c release --static-swift-stdlib --product cairn

# What the tests of budgets run: instructions and allocations for each request.
bench-tools: deps
	swift build -c release --static-swift-stdlib --product path-cost
	swift build -c release --static-swift-stdlib --product CAllocations

demo: build
	CAIRN="$(abspath $(BIN))" bash Tests/demo.sh

test: build bench-tools
	CAIRN="$(abspath $(BIN))" bash Tests/run.sh

check: deps
	swift format lint --strict --recursive Sources Tests bench Package.swift
	swift build -Xswiftc -warnings-as-errors
	$(MAKE) test

# Storms for STORM_MINUTES over every target: docs/STORM.md.
STORM_MINUTES ?= 10
storm: deps
	swift build -c release --static-swift-stdlib --product cairn-storm
	.build/release/cairn-storm --target all --minutes $(STORM_MINUTES) --seed $(or $(STORM_SEED),1)

# Deliberate bugs, one after another: the table of docs/STORM.md. Fails when one is not found.
mutants: deps
	bash Tests/mutants.sh

# Fuzzers for FUZZ_MINUTES over all that reads outside bytes, or FUZZ_TARGET alone: docs/STORM.md. What they find worth keeping
# stays in .build-fuzz until fuzz-merge takes it into the corpus of the tree.
fuzz: deps
	FUZZ_MINUTES=$(or $(FUZZ_MINUTES),10) FUZZ_TARGET=$(FUZZ_TARGET) bash Tests/Fuzz/run.sh long
fuzz-merge: deps
	FUZZ_TARGET=$(FUZZ_TARGET) bash Tests/Fuzz/run.sh merge

# Against nbdkit and qemu-nbd: the quick set (15 minutes at most), or everything. Results in .build/peers.
bench: build bench-limit
	python3 bench/peers/peers.py --set quick
bench-full: build bench-limit
	python3 bench/peers/peers.py --set full
bench-limit: deps
	swift build -c release --static-swift-stdlib --product client-limit

# What is promised of the engine, ssdcache and writeboost, against the file below them (10 minutes); what targets stand on, against C.
bars: build
	python3 bench/bars.py
micro:
	swift build -c release --static-swift-stdlib --product micro-bench
	.build/release/micro-bench

format:
	swift format --in-place --recursive Sources Tests bench Package.swift

install: build
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/sbin/cairn
	for p in man/*.[0-9]; do install -D -m 644 $$p $(DESTDIR)$(PREFIX)/share/man/man$${p##*.}/$$(basename $$p); done
	install -D -m 644 completions/cairn.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/cairn
	install -D -m 644 completions/_cairn $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_cairn
	install -D -m 644 completions/cairn.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/cairn.fish

clean:
	rm -rf .build .build-fuzz
