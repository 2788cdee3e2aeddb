#!/bin/sh
# Tests of tools/lensgate_export, each part with the packages that it is for, against a gateway that is built already.
set -eu
cd "$(dirname "$0")/.."
gateway=${LENSGATE_GATEWAY:-}
for built in target/debug/lensgate target/release/lensgate; do
    [ -n "$gateway" ] || [ ! -x "$built" ] || gateway=$PWD/$built
done
if [ -z "$gateway" ]; then
    echo "test-models: no gateway is built; \`make build\`, or LENSGATE_GATEWAY=FILE" >&2
    exit 1
fi
# One thread, so that figures do not hang on who else is working here.
export LENSGATE_GATEWAY="$gateway" OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
for part in ${*:-base keras torch}; do
    packages=$(tools/models.sh --fetch "$part")
    echo "test-models: $part"
    PYTHONPATH=$PWD/tools:$packages python3 -W ignore::DeprecationWarning -m unittest discover \
        --start-directory "tools/lensgate_export/tests/$part" --top-level-directory tools
done
if [ -z "${LENSGATE_FIXTURES:-}" ]; then
    echo "fixtures: NOT RUN (set LENSGATE_FIXTURES to the folder of real models and photos)"
fi
