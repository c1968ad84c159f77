# make run    build, print what clients need, start the edge of config/examples/quickstart.yaml
# make test   everything that CI checks
# make check  the quick part of it
# make bench  measurements against other servers; BENCH="--quick" or BENCH="blob-http1 --runs 9" for some of them

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pierhead/target

QUICKSTART := config/examples/quickstart.yaml
RELEASE = $(CARGO_TARGET_DIR)/release/pierhead
DEBUG = $(CARGO_TARGET_DIR)/debug/pierhead

.PHONY: run build test check fmt lint doc deny examples unit bench build-tools test-tools bench-tools cargo-tools

run: build
	@$(RELEASE) client-config all --config $(QUICKSTART)
	@exec $(RELEASE) serve --config $(QUICKSTART)

build: build-tools
	cargo build --release --locked --package pierhead

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

deny: cargo-tools
	cargo deny --locked check licenses bans sources

examples: test-tools
	cargo build --workspace --locked
	config/examples/check.sh $(DEBUG)

unit: cargo-tools test-tools
	cargo build --workspace --locked
	cargo test --workspace --doc --locked --quiet
	cargo nextest run --workspace --locked

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
