# What one does with this repository; `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: bench build cargo-deb check demo help install node package postgres python test torture

CARGO ?= cargo
# How the demo and the benchmarks are started, and with what arguments.
DEMO ?= $(CARGO) run --quiet --package demo --
BENCH ?= $(CARGO) run --quiet --release --package bench --
ARGS ?=
ONLY ?=
# How long the torture lasts, from what seed (any, if empty), and on what broken build.
MINUTES ?= 30
SEED ?=
BREAK ?=
# The output plugin where nothing else is said, of tests, torture and benchmarks: wal2json or pgoutput.
PLUGIN ?= wal2json

# A fresh machine has no nextest.
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

help: ## Lists these commands.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

demo: install build ## Starts a private Postgres and Redis and shows stale keys go as rows change.
	@$(DEMO) $(ARGS)

build: ## Builds the program and everything around it.
	@$(CARGO) build --quiet --workspace

test: install python node postgres cargo-deb ## Runs every test, against private servers of its own; PLUGIN=pgoutput.
ifeq ($(NEXTEST),yes)
	@PLUGIN=$(PLUGIN) $(CARGO) nextest run --workspace $(ARGS)
else
	@PLUGIN=$(PLUGIN) $(CARGO) test --quiet --workspace --no-fail-fast --lib --bins --tests $(ARGS)
endif
	@$(CARGO) test --quiet --workspace --doc

torture: install ## Kills, cuts and stalls everything at random; MINUTES=30, SEED=1 repeats a plan, BREAK=confirm_early, PLUGIN=pgoutput.
	@MINUTES=$(MINUTES) SEED=$(SEED) BREAK=$(BREAK) PLUGIN=$(PLUGIN) $(CARGO) test --quiet --package walpurge --test it \
		torture::for_as_long_as_asked -- --exact --ignored --nocapture $(ARGS)

check: ## Checks formatting, lints and the documentation's links.
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --quiet --workspace --all-targets -- --deny warnings
	@RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --quiet --workspace --no-deps

bench: install ## Measures on this machine; ONLY=drain (shapes, growth, latency, …) measures one thing, PLUGIN=pgoutput with that.
	@$(CARGO) build --quiet --release --package walpurge
	@PLUGIN=$(PLUGIN) $(BENCH) $(ONLY) $(ARGS)

package: cargo-deb ## Makes the Debian package, and one with debug symbols, in target/debian.
	@$(CARGO) build --quiet --release --locked --package walpurge --package manual
	@$${CARGO_TARGET_DIR:-target}/release/manual target/package
	@$${CARGO_TARGET_DIR:-target}/cargo-deb/bin/cargo-deb deb --no-build --locked

install: ## Installs the servers, browser and tools that tests need, where they are missing (apt).
	@scripts/install.sh $(WANTED)

demo bench: WANTED := servers

python: install build ## Makes the Python environment that tests need (PyPI), where it is missing.
	@scripts/python.sh $${CARGO_TARGET_DIR:-target}/python

node: install build ## Fetches the packages for Node.js that tests need (npm), where they are missing.
	@scripts/node.sh $${CARGO_TARGET_DIR:-target}/node

postgres: install build ## Fetches servers of other Postgres versions that tests need (npm), where they are missing.
	@scripts/postgres.sh $${CARGO_TARGET_DIR:-target}/postgres

cargo-deb: build ## Installs cargo-deb for this repository alone (crates.io), where it is missing.
	@scripts/cargo-deb.sh $${CARGO_TARGET_DIR:-target}/cargo-deb
