#!/bin/sh
# Holds the dashboards against Grafana's schema; its types are fetched into .tools/dashboards once.
#   tools/dashboards/schema.sh [FILE...]
set -eu
cd "$(dirname "$0")/../.."

wanted=tools/dashboards/requirements.txt
folder=.tools/dashboards

# The list goes in last: it stands for packages that are all there.
if ! cmp -s "$wanted" "$folder/requirements.txt"; then
    echo "dashboards: fetching Grafana's types" >&2
    mkdir -p .tools
    work=$(mktemp -d .tools/dashboards.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --only-binary=:all: --no-deps \
        --require-hashes --target "$work" --requirement "$wanted"
    cp "$wanted" "$work/requirements.txt"
    rm -rf "$folder"
    mv "$work" "$folder"
    trap - EXIT HUP INT TERM
fi
PYTHONPATH=$PWD/$folder PYTHONDONTWRITEBYTECODE=1 exec python3 tools/dashboards/schema.py "$@"
