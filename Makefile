# make run    build quickly, start the edge of config/examples/quickstart.yaml and the origin behind it, and print how to use them
# make test   everything that CI checks
# make check  the quick part of it
# make test-long   what takes longer than every change can wait; SEEDS=0..20000 for more of the differential test
# make advisories  known vulnerabilities of the crates; needs the network
# make bench  measurements against other servers; BENCH="--quick" or BENCH="blob-http1 --runs 9" for some of them
# make build  the programs, for make install; FEATURES=fips for one that uses a validated cryptographic module
# make install, make uninstall    program, systemd units, and an example configuration where there is none; DESTDIR, PREFIX

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pierhead/target

# Built in a fraction of a release's time: see `profile.quick` in Cargo.toml.
FIRST = $(CARGO_TARGET_DIR)/quick/pierhead
RELEASE = $(CARGO_TARGET_DIR)/release/pierhead
DEBUG = $(CARGO_TARGET_DIR)/debug/pierhead

.PHONY: run build test test-long check fmt lint doc deny advisories examples unit bench build-tools test-tools bench-tools cargo-tools install uninstall

run: build-tools
	cargo build --profile quick --locked --package pierhead --package pierhead-origin
	@exec scripts/run $(FIRST) $(FIRST)-origin config/examples

build: build-tools
	cargo build --release --locked --package pierhead --package pierhead-origin $(if $(FEATURES),--features $(FEATURES))

# In this order, whatever -j says: the quick checks come first.
.NOTPARALLEL:

test: check deny unit

check: build-tools fmt lint doc examples

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --document-private-items --locked

# Without the network, as all of `make test`. The database of known vulnerabilities is on the network: `make advisories` asks it.
deny: cargo-tools
	cargo deny --locked check licenses bans sources

advisories: cargo-tools
	cargo deny --locked check advisories

examples: test-tools
	cargo build --workspace --locked
	config/examples/check.sh $(DEBUG) $(DEBUG)-origin

unit: cargo-tools test-tools
	cargo build --workspace --locked
	cargo test --workspace --doc --locked --quiet
	cargo nextest run --workspace --locked

SEEDS ?= 0..5000

test-long: cargo-tools test-tools
	cargo build --workspace --locked
	PIERHEAD_SEEDS=$(SEEDS) cargo nextest run --profile long --run-ignored all --locked --package pierhead-tests --test it

bench: build bench-tools
	cargo build --release --locked --package pierhead-bench
	$(CARGO_TARGET_DIR)/release/pierhead-bench $(BENCH)

build-tools:
	@scripts/need --build

test-tools:
	@scripts/need --build --test

bench-tools:
	@scripts/need --build --bench

cargo-tools:
	@scripts/need --cargo

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
# What is installed: `make build` makes it, as whoever calls `sudo make install` then.
BUILDER = $(and $(SUDO_USER),$(shell getent passwd $(SUDO_USER) | cut -d: -f6)/.cache/pierhead/target/release)
PROGRAM ?= $(firstword $(wildcard $(RELEASE) $(BUILDER)/pierhead) $(RELEASE))
ORIGIN ?= $(firstword $(wildcard $(dir $(RELEASE))pierhead-origin $(BUILDER)/pierhead-origin))
INSTALLED = $(DESTDIR)$(PREFIX)
UNITS = $(INSTALLED)/lib/systemd/system
USERS = $(INSTALLED)/lib/sysusers.d/pierhead.conf

install:
	@[ -x "$(PROGRAM)" ] || { echo "$(PROGRAM) is not there: \`make build\` makes it, or name another with PROGRAM=…" >&2; exit 1; }
	install -D -m 755 $(PROGRAM) $(INSTALLED)/bin/pierhead
	$(if $(ORIGIN),install -D -m 755 $(ORIGIN) $(INSTALLED)/bin/pierhead-origin)
	install -d $(UNITS) $(dir $(USERS))
	set -e; for unit in pierhead.service pierhead.socket $(if $(ORIGIN),pierhead-origin.service); do \
	    sed 's#/usr/bin/#$(PREFIX)/bin/#; s#/usr/share/#$(PREFIX)/share/#; s#/etc/pierhead#$(SYSCONFDIR)/pierhead#' systemd/$$unit >$(UNITS)/$$unit; \
	    chmod 644 $(UNITS)/$$unit; \
	done
	install -m 644 systemd/pierhead.sysusers $(USERS)
	install -D -m 644 -t $(INSTALLED)/share/doc/pierhead docs/*.md
	[ -e $(DESTDIR)$(SYSCONFDIR)/pierhead/pierhead.yaml ] || \
	    install -D -m 644 config/examples/service.yaml $(DESTDIR)$(SYSCONFDIR)/pierhead/pierhead.yaml
	$(if $(ORIGIN),[ -e $(DESTDIR)$(SYSCONFDIR)/pierhead/origin.yaml ] || \
	    install -D -m 644 config/examples/origin.yaml $(DESTDIR)$(SYSCONFDIR)/pierhead/origin.yaml)
	$(if $(DESTDIR),,@echo "Next: $(SYSCONFDIR)/pierhead/pierhead.yaml, systemd-sysusers, systemctl daemon-reload, systemctl enable --now pierhead")

# The configuration and the cache are the operator's.
uninstall:
	rm -f $(INSTALLED)/bin/pierhead $(INSTALLED)/bin/pierhead-origin
	rm -f $(UNITS)/pierhead.service $(UNITS)/pierhead.socket $(UNITS)/pierhead-origin.service $(USERS)
	rm -rf $(INSTALLED)/share/doc/pierhead
