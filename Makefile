# What CI runs, word for word. Needs Rust, Python 3 with pip, and a C compiler; nats-server,
# cargo-deny and Django (for one test) are fetched into .tools/.
.DEFAULT_GOAL := help
.PHONY: help build demo check test torture languages applications sqlite-suite lint format clippy
.PHONY: licenses bench bench-check
.PHONY: sim sim-long brokers clean

# A usable nats-server: $HARMONYLITE_NATS_SERVER, .tools/, PATH, or fetched now.
FIND_NATS_SERVER = server="$$(python3 scripts/nats-server.py)"

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## target/release/harmonylite: one file, the nats-server inside
	$(FIND_NATS_SERVER) && export HARMONYLITE_EMBED_NATS_SERVER="$$server" && \
	cargo build --release --locked --package harmonylite

demo: build ## three nodes on this machine write at once and end up equal
	target/release/harmonylite demo $(ARGS)

check: format clippy ## while working: format, clippy, unit tests, 500 worlds; about a minute
	$(FIND_NATS_SERVER) && export HARMONYLITE_NATS_SERVER="$$server" && \
	cargo test --quiet --locked --workspace --exclude harmonylite-simulation --lib
	cargo run --quiet --locked --profile sim --package harmonylite-simulation --bin sim -- --seeds 500

# One build for all tests; it makes the executable too, which the guarantee tests are told to use.
# The simulation apart: it switches on the feature `planted-bugs`, and features unify within one
# build. Its build takes the libraries of the first one, because the profile and the selection of
# packages are the same. Level 2 runs 65 s faster and takes 95 s longer to build.
# Tests with processes mostly wait, so three run on two processors.
OPTIMISE = --config 'profile.dev.package.$(1).opt-level=1'
WORLDS = $(patsubst tests/simulation/tests/%.rs,--test %,$(wildcard tests/simulation/tests/*.rs)) \
	$(call OPTIMISE,harmonylite) $(call OPTIMISE,harmonylite-simulation)
TEST_THREADS ?= $(shell expr 3 \* "$$(getconf _NPROCESSORS_ONLN)" / 2)
test: ## every test, against a real nats-server
	scripts/test-tools.sh
	python3 scripts/django.py >&2
	$(FIND_NATS_SERVER) && export HARMONYLITE_NATS_SERVER="$$server" && \
	HARMONYLITE_BINARY="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug/harmonylite" \
	RUST_TEST_THREADS=$(TEST_THREADS) \
	cargo test --locked --workspace --exclude harmonylite-simulation && \
	cargo test --locked --workspace $(WORLDS) && \
	tests/languages/readme.py "$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug/harmonylite"

torture: ## the VFS among writers and SIGKILL, thirty times; stale reads; equal to plain SQLite
	scripts/test-tools.sh
	HARMONYLITE_TORTURE_ROUNDS=30 HARMONYLITE_TORTURE_ROWS=1000 HARMONYLITE_STALE_READS=200000 \
	HARMONYLITE_SEEDS=300 cargo test --locked --package harmonylite-vfs -- --nocapture

languages: ## the lines of docs/vfs-*.md, run as a newcomer would; and the oldest SQLite
	tests/languages/run.py
	tests/languages/oldest_sqlite.sh

brokers: ## what a broker must do, against nats-server 2.10.23 to the newest (fetched; two minutes)
	scripts/brokers.py

applications: build ## migration tools under load; $POCKETBASE, $DIRECTUS: their programs, if any
	python3 -c 'import alembic' || python3 -m pip install --quiet alembic
	NODE_PATH="$$(tests/applications/tools/node_modules.sh)" tests/applications/migrations.py all each
	tests/applications/alembic_batch.py off
	tests/applications/alembic_batch.py all
	test -z "$$POCKETBASE" || tests/applications/pocketbase.py "$$POCKETBASE"
	test -z "$$DIRECTUS" || tests/applications/directus.py "$$DIRECTUS"

sqlite-suite: ## SQLite's own tests of files, locks and the WAL, through the VFS (needs Debian)
	tests/sqlite-suite/run.py

lint: format clippy ## what no test sees: width, folders, documentation, dependencies; no warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --locked
	scripts/width.py
	scripts/arrows.py --self-test
	scripts/arrows.py
	scripts/licenses.py --check
	scripts/cargo-deny.py

format:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

licenses: ## replicator/licenses.txt, after a change of the dependencies
	scripts/licenses.py

# BENCH_ARGS="--quick", "--only latency", "--json FILE".
bench: build ## floors: throughput, latency, cost to the application
	target/release/harmonylite bench --floors $(BENCH_ARGS)

bench-check: ## instructions a row of each stage, against bench/instructions.json (valgrind)
	scripts/instructions.py --check

# SIM_ARGS="--seed 17" repeats one world.
SIM_ARGS ?= --seconds 90
sim: ## seeded worlds of nodes, faults and a broker that forgets, for 90 s
	cargo run --locked --profile sim --package harmonylite-simulation --bin sim -- $(SIM_ARGS)

SEEDS ?= 200000
sim-long: ## SEEDS=200000 of them, about an hour
	cargo run --locked --profile sim --package harmonylite-simulation --bin sim -- \
	--start 0 --seeds $(SEEDS) --keep-going

clean: ## build products and fetched tools
	cargo clean
	rm -rf .tools
