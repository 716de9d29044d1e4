# `make` lists the targets. CI runs `make verify`.

PYTHON ?= python3
# A Python that can import torch, for the PyTorch peers of `make bench`.
TORCH_PYTHON ?= $(PYTHON)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Features of `make build`: TLS to Kafka with the system's OpenSSL, or one built along, and snapshots in S3; FEATURES= builds
# without them.
TLS := $(if $(shell pkg-config --exists openssl 2>/dev/null && echo yes),tls,tls-vendored)
FEATURES ?= $(TLS),s3
# Arguments of `make demo`, e.g. ARGS="--data DIR --json".
ARGS ?=
# Number of kills, and their seed, in `make verify-long`.
KILLS ?= 200
SEED ?= 1

# The steps share one build folder, one broker and two cores.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo build test cases remote secure verify verify-long fmt-check clippy doc bench libtorch data encoders kafka kafka-stop clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# In the profile of `make test`, so that both build dependencies once.
demo: libtorch data ## build, then learn MovieLens-100K live from an embedded broker; ARGS="--help" for more
	@cargo build --bin ouzel
	@$(TARGET_DIR)/debug/ouzel demo $(ARGS)

build: libtorch ## build target/release/ouzel for production, with TLS to Kafka
	cargo build --release --bin ouzel $(if $(FEATURES),--features $(FEATURES))

# Without Java or Maven, kafka.py prints which tests are skipped. It stops the broker that it started.
test: libtorch data encoders ## run every test; those against a real Kafka broker need Java 17 and Maven
	$(PYTHON) ops/setup/kafka.py run -- cargo test --workspace

cases: libtorch ## run the logs that users bring, from files, as records and through a broker, counter by counter
	$(PYTHON) ops/setup/kafka.py run -- cargo test -p ouzel --lib -- commands::streams

remote: ## test the remote copy against an S3-compatible server, installed with pip once; says so if it is skipped
	$(PYTHON) ops/setup/s3.py run -- cargo test -p ouzel-snapshot --features s3 --test s3 -- --nocapture

secure: libtorch ## test Kafka over TLS, with SCRAM and OIDC, and a schema registry over TLS, in a build with TLS
	$(PYTHON) ops/setup/kafka.py run -- cargo test -p ouzel -p ouzel-ingest --features $(TLS) --test it --lib -- secure:: formats::tests::tls

verify: fmt-check clippy test doc ## check format, lints, tests and documentation, as CI does

verify-long: export OUZEL_JOIN_CASES ?= 1000000
verify-long: export OUZEL_JOIN_PENDING ?= 5000000
verify-long: export PROPTEST_CASES ?= 5000
verify-long: export OUZEL_SCHEDULES ?= 20
verify-long: export OUZEL_SLED_MUTATIONS ?= 200
verify-long: export OUZEL_ATTACK_IDS ?= 10000000
verify-long: export OUZEL_FUZZ_CASES ?= 5000000
verify-long: export OUZEL_TAKE_OVERS ?= 20
verify-long: export OUZEL_ROLLBACK_ROWS ?= 1000000
verify-long: libtorch data encoders ## run every test with many more cases, mutations and ids, and KILLS=200 kills
	$(PYTHON) ops/setup/kafka.py run -- cargo test --workspace --release
	$(PYTHON) ops/setup/s3.py run -- cargo test -p ouzel-snapshot --features s3 --test s3 -- --nocapture
	@$(MAKE) secure
	@cargo build --release --bin ouzel
	@$(TARGET_DIR)/release/ouzel verify --kills $(KILLS) --seed $(SEED) --fail-points all

fmt-check: ## check the format by rustfmt.toml
	cargo fmt --all --check

clippy: libtorch ## check the lints, warnings denied
	cargo clippy --workspace --all-targets -- --deny warnings

doc: export RUSTDOCFLAGS := --deny warnings
doc: libtorch ## build the documentation of the crates, warnings denied
	cargo doc --workspace --no-deps

bench: libtorch ## measure joining, training and scoring, each beside a peer; some peers need torch
	@$(PYTHON) ops/setup/bench.py --torch-python $(TORCH_PYTHON) $(ARGS)

libtorch: ## download libtorch 2.13.0 into .libtorch/ (530 MB, once), or check the one that LIBTORCH names
	@$(PYTHON) ops/setup/libtorch.py

data: ## download MovieLens-100K into .data/ (2 MB, once) and write it as an event log
	@$(PYTHON) ops/setup/movielens.py

encoders: ## download the weights of the frozen text and image encoders into .encoders/ (101 MB, once)
	@$(PYTHON) ops/setup/encoders.py

kafka: ## start a real Apache Kafka broker on loopback, downloaded through Maven once; prints its address
	@$(PYTHON) ops/setup/kafka.py start

kafka-stop: ## stop that broker; its data stays
	@$(PYTHON) ops/setup/kafka.py stop

clean: ## remove build results and the data of the broker; downloads stay
	@$(PYTHON) ops/setup/kafka.py wipe
	cargo clean

distclean: clean ## also remove downloads
	rm -rf .libtorch .data .kafka .encoders
