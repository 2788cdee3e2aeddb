#!/bin/sh
# Makes sure that cmake and nasm, which build libjpeg-turbo, can be found: on the PATH, else in .tools/bin.
# cmake comes from its Python wheel, nasm from the distribution's packages (installed as root, else unpacked here).
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.tools/bin:$PATH
mkdir -p .tools/bin

if ! command -v cmake >/dev/null; then
    echo "fetch-build-tools: fetching cmake" >&2
    python3 -m pip install --quiet --disable-pip-version-check --only-binary=:all: --upgrade \
        --target .tools/python "cmake==4.1.2"
    ln -sf ../python/cmake/data/bin/cmake .tools/bin/cmake
fi

if ! command -v nasm >/dev/null; then
    echo "fetch-build-tools: fetching nasm" >&2
    if ! command -v apt-get >/dev/null; then
        echo "fetch-build-tools: nasm is needed to build libjpeg-turbo; install it with this system's packages" >&2
        exit 1
    fi
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nasm >/dev/null
    else
        state=$PWD/.tools/apt
        rm -rf "$state"
        mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
        set -- -o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state/cache" -o Debug::NoLocking=1
        apt-get "$@" update -qq
        (cd "$state" && apt-get "$@" download -qq nasm && dpkg -x nasm_*.deb nasm)
        ln -sf ../apt/nasm/usr/bin/nasm .tools/bin/nasm
    fi
fi

cmake --version >/dev/null
nasm --version >/dev/null
