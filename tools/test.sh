#!/bin/sh
# Runs every test. Says plainly when the tests over real models and photos were not run.
set -eu
cd "$(dirname "$0")/.."
tools/postgres.sh --fetch
tools/s3.sh --fetch
cargo test --locked --lib --bins --test it
if [ "$(id -u)" != 0 ]; then
    echo "a full disk of PostgreSQL's: NOT RUN (a disk of its own takes root)"
fi
if [ -z "${LENSGATE_FIXTURES:-}" ]; then
    echo "fixtures: NOT RUN (set LENSGATE_FIXTURES to the folder of real models and photos)"
fi
