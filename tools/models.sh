#!/bin/sh
# Gets a model into a store, from the framework that it was made with (docs/models.md):
#   tools/models.sh keras|torch|timm|savedmodel|tflite|quantize|compare|check [options...]
#   tools/models.sh prune|distill                  the recipes
#   tools/models.sh --fetch keras|torch|base       only fetches packages; says where they are
# Each kind of work has its own packages under .tools: frameworks do not agree on versions, and they are gigabytes.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)

# packages_of COMMAND
packages_of() {
    case $1 in
    keras | savedmodel | tflite) echo keras ;;
    torch | timm | prune | distill) echo torch ;;
    *) echo base ;;
    esac
}

if [ "${1:-}" = --fetch ]; then
    "$here/tools/fetch-packages.sh" "models-$2" "tools/lensgate_export/requirements/$2.txt"
    echo "$here/.tools/models-$2"
    exit
fi

packages=$(packages_of "${1:---help}")
"$here/tools/fetch-packages.sh" "models-$packages" "tools/lensgate_export/requirements/$packages.txt"
export PYTHONPATH="$here/tools:$here/.tools/models-$packages${PYTHONPATH:+:$PYTHONPATH}"
case ${1:-} in
prune | distill)
    recipe=$1
    shift
    exec python3 -m "lensgate_export.recipes.$recipe" "$@"
    ;;
*) exec python3 -m lensgate_export "$@" ;;
esac
