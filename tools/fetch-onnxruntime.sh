#!/bin/sh
# Puts the pinned ONNX Runtime library into .runtime/onnxruntime, out of its Python wheel. Does nothing where it is there.
# Wheel and library are checked by size and SHA-256 before anything could open them: a cut-off library kills the process that loads it.
set -eu
cd "$(dirname "$0")/.."

version=1.32.0
wheel_bytes=27773237
wheel_sha256=5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d
library_bytes=34824680
library_sha256=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f

folder=.runtime/onnxruntime
library=$folder/libonnxruntime.so.$version

# is_whole FILE BYTES SHA256
is_whole() {
    [ -f "$1" ] && [ "$(wc -c <"$1")" -eq "$2" ] && echo "$3  $1" | sha256sum --check --status
}

if is_whole "$library" "$library_bytes" "$library_sha256"; then
    exit 0
fi
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    echo "fetch-onnxruntime: no library is pinned for $(uname -s)-$(uname -m); the gateway serves on tract" >&2
    exit 0
fi

# What lies there is cut off or another one: nobody may load it, also where the fetch below fails.
rm -f "$library"

part=$library.$$.part
work=$(mktemp -d)
trap 'rm -rf "$work" "$part"' EXIT
trap 'exit 1' HUP INT TERM
echo "fetch-onnxruntime: fetching onnxruntime $version" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --dest "$work" "onnxruntime==$version"
wheel=$(find "$work" -name '*.whl')
if ! is_whole "$wheel" "$wheel_bytes" "$wheel_sha256"; then
    echo "fetch-onnxruntime: the wheel is not the one that is pinned (size or SHA-256); nothing was installed" >&2
    exit 1
fi
mkdir -p "$folder"
python3 - "$wheel" "onnxruntime/capi/libonnxruntime.so.$version" "$part" <<'PYTHON'
import shutil, sys, zipfile
wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out)
PYTHON
if ! is_whole "$part" "$library_bytes" "$library_sha256"; then
    echo "fetch-onnxruntime: the library in the wheel is not the one that is pinned (size or SHA-256); nothing was installed" >&2
    exit 1
fi
# In place by one rename, so that no gateway ever sees half of it.
mv "$part" "$library"
