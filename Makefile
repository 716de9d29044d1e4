# What can be done here; `make` lists it. CI runs `make verify`, nothing else.

PYTHON ?= python3
# A Python that can import torch, for the peers of `make bench` that need it.
TORCH_PYTHON ?= $(PYTHON)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Arguments of `make demo`, e.g. ARGS="--data DIR --json".
ARGS ?=
# Of `make verify-long`: how often daemons are killed, and what decides when.
KILLS ?= 200
SEED ?= 1

# The steps share one build folder, one broker and two cores.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test verify verify-long fmt-check clippy doc bench libtorch data encoders kafka kafka-stop clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: libtorch data ## build, then learn MovieLens-100K live from an embedded broker; ARGS="--help" for more
	@cargo build --release --bin ouzel
	@$(TARGET_DIR)/release/ouzel demo $(ARGS)

# kafka.py says loudly which tests are skipped where Java or Maven is missing, and stops the broker that it started.
test: libtorch data encoders ## every test; those against a real Kafka broker need Java 17 and Maven
	$(PYTHON) ops/setup/kafka.py run -- cargo test --workspace

verify: fmt-check clippy test doc ## what CI checks: format, lints, tests, documentation

verify-long: export OUZEL_JOIN_CASES ?= 1000000
verify-long: export OUZEL_JOIN_PENDING ?= 5000000
verify-long: export PROPTEST_CASES ?= 5000
verify-long: export OUZEL_SCHEDULES ?= 20
verify-long: export OUZEL_SLED_MUTATIONS ?= 200
verify-long: export OUZEL_ATTACK_IDS ?= 10000000
verify-long: libtorch data encoders ## what `make test` has no time for: many more cases, mutations and ids, and KILLS=200 kills
	$(PYTHON) ops/setup/kafka.py run -- cargo test --workspace --release
	@cargo build --release --bin ouzel
	@$(TARGET_DIR)/release/ouzel verify --kills $(KILLS) --seed $(SEED) --fail-points all

fmt-check: ## the format, as rustfmt.toml has it
	cargo fmt --all --check

clippy: libtorch ## lints, warnings denied
	cargo clippy --workspace --all-targets -- --deny warnings

doc: export RUSTDOCFLAGS := --deny warnings
doc: libtorch ## the crates' documentation, warnings denied
	cargo doc --workspace --no-deps

bench: libtorch ## events/s joined, samples/s trained, candidates/s scored, each beside a peer; needs torch for some
	@$(PYTHON) ops/setup/bench.py --torch-python $(TORCH_PYTHON) $(ARGS)

libtorch: ## fetch libtorch 2.13.0 into .libtorch/ (530 MB, once), or check the one that LIBTORCH names
	@$(PYTHON) ops/setup/libtorch.py

data: ## fetch MovieLens-100K into .data/ (2 MB, once) and write it as an event log
	@$(PYTHON) ops/setup/movielens.py

encoders: ## fetch the weights of the frozen text and image encoders into .encoders/ (101 MB, once)
	@$(PYTHON) ops/setup/encoders.py

kafka: ## start a real Apache Kafka broker on loopback, fetched through Maven on first use; prints its address
	@$(PYTHON) ops/setup/kafka.py start

kafka-stop: ## stop that broker; its data stays
	@$(PYTHON) ops/setup/kafka.py stop

clean: ## remove what was built and the broker's data; what was downloaded stays
	@$(PYTHON) ops/setup/kafka.py wipe
	cargo clean

distclean: clean ## remove what was downloaded, too
	rm -rf .libtorch .data .kafka .encoders
