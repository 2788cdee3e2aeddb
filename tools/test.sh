#!/bin/sh
# Runs every test. Says plainly when the tests over real models and photos were not run.
set -eu
cd "$(dirname "$0")/.."
tools/postgres.sh --fetch
tools/s3.sh --fetch
# Distributions' packages: where they cannot be had, all else is tested, and CI fails.
prometheus=there
tools/prometheus.sh --fetch || prometheus=
if [ -n "$prometheus" ]; then
    tools/dashboards/test.sh
elif [ -n "${LENSGATE_PACKAGES:-}" ]; then
    exit 1
fi
proxy=there
tools/haproxy.sh --fetch || proxy=
if [ -z "$proxy" ] && [ -n "${LENSGATE_PACKAGES:-}" ]; then
    exit 1
fi
cargo test --locked --lib --bins --test it
if [ "$(id -u)" != 0 ]; then
    echo "a full disk of PostgreSQL's: NOT RUN (a disk of its own takes root)"
fi
if [ -z "$prometheus" ]; then
    echo "dashboards and rules over a real Prometheus: NOT RUN (install the package prometheus)"
fi
if [ -z "$proxy" ]; then
    echo "a rolling restart behind a real proxy: NOT RUN (install the package haproxy)"
fi
if [ -z "${LENSGATE_FIXTURES:-}" ]; then
    echo "fixtures: NOT RUN (set LENSGATE_FIXTURES to the folder of real models and photos)"
fi
