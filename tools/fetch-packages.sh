#!/bin/sh
# Makes sure that Python packages lie in a folder of .tools: those of a list with exact versions, and nothing else.
#   tools/fetch-packages.sh FOLDER LIST [pip's options...]
set -eu
cd "$(dirname "$0")/.."

folder=.tools/$1
wanted=$2
shift 2

# The list goes in last: it stands for packages that are all there.
if ! cmp -s "$wanted" "$folder/requirements.txt"; then
    echo "fetch-packages: fetching what $wanted lists" >&2
    mkdir -p .tools
    work=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --only-binary=:all: --no-deps \
        "$@" --target "$work" --requirement "$wanted"
    cp "$wanted" "$work/requirements.txt"
    rm -rf "$folder"
    mv "$work" "$folder"
    trap - EXIT HUP INT TERM
fi
