# The recipes that people and CI share. `make run` and `make test` work on a machine that has a Rust toolchain,
# a C compiler and Python's pip: everything else is fetched.

export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: run build demo test check format bench soak test-tools test-observability tools train clean

## Serve the shipped models on 127.0.0.1:8080 (LENSGATE__… variables are obeyed; SIGTERM or Ctrl-C ends it)
run: build
	@exec target/release/lensgate serve

## Build the gateway
build: tools
	cargo build --release --locked --bin lensgate

## A canary that promotes itself and one that is taken back, told as it happens by a gateway of their own (half a minute)
demo: build
	@python3 tools/demo/demo.py target/release/lensgate

## Everything that must hold: unit tests, and tests over real HTTP
test: tools
	tools/test.sh

## Format and lints, and what is in deploy/ against the schemas of those who take it
check: tools
	tools/deploy/check.sh
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings

format:
	cargo fmt

## Measure: the picture path against the fastest crates, the bare loop against HTTP, cached answers, overload, a quiet tenant beside
## a flood, serving while a model loads, what the log costs and takes, and what keys, limits, shadows and telemetry cost, and how long a report takes; each side by side in one run (needs LENSGATE_FIXTURES)
bench: tools
	cargo bench --locked --no-fail-fast --bench picture --bench throughput --bench cache --bench overload --bench fairness --bench loading --bench log --bench access --bench rollout --bench shadow --bench report --bench telemetry

## The long form of the faults: outages of 30 s, 20 kills, under load; prints what was answered and what was found
soak: tools
	tools/postgres.sh --fetch
	LENSGATE_SOAK=1 cargo test --locked --test it predictions::faults -- --nocapture --test-threads 1

## What stands apart from `make test`: the export as Parquet, which the usual build does not have, and getting models in
## (tools/lensgate_export), whose frameworks are gigabytes
test-tools: tools
	tools/postgres.sh --fetch
	cargo test --locked --features parquet --test it store::export
	tools/test-models.sh

## Dashboards, recording rules and alerts: by docs/metrics.md, Grafana's schema, and promtool's tests
test-observability:
	tools/dashboards/test.sh

## Fetch what the build and the gateway need
tools:
	@tools/fetch-build-tools.sh
	@tools/fetch-onnxruntime.sh

## Train model-store/digits anew (takes minutes; the same bytes come out)
train:
	python3 -m venv .tools/train
	.tools/train/bin/pip install --quiet --requirement tools/train_digits/requirements.txt
	.tools/train/bin/python tools/train_digits/train.py

clean:
	cargo clean
