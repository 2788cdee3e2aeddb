#!/bin/sh
# Makes sure that a program of the distribution's packages lies in a folder of .tools. They are not installed: that takes no root,
# and starts no service.
#   tools/fetch-debs.sh FOLDER 'PROGRAM ARGUMENT' PACKAGE [PATTERN]   the program (below the folder) must run with this argument;
#                       with the package come those that it needs, directly or not, and whose names match this extended expression.
#   tools/fetch-debs.sh --libraries FOLDER                            prints where its own libraries lie, for LD_LIBRARY_PATH.
set -eu
cd "$(dirname "$0")/.."

libraries() {
    [ -d "$1/usr/lib" ] || return 0
    find "$1/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -s -d :
}

if [ "$1" = --libraries ]; then
    libraries "$PWD/.tools/$2"
    exit
fi
folder=.tools/$1 program=$2 package=$3 pattern=${4:-}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 1
echo "fetch-debs: fetching the distribution's package $package" >&2
mkdir -p .tools
work=$(mktemp -d "$PWD/$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# Lists and archives of its own: apt's are not readable for everybody, and another apt-get may hold its locks.
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/programs" "$work/packages"
set -- -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root
apt-get -qq "$@" update >&2
needs=
if [ -n "$pattern" ]; then
    needs=$(apt-cache "$@" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        "$package" | grep -xE "$pattern" | sort -u)
fi
# shellcheck disable=SC2086 # a list of packages
(cd "$work/packages" && apt-get -qq "$@" download "$package" $needs >&2)
for archive in "$work"/packages/*.deb; do dpkg-deb -x "$archive" "$work/programs"; done
# shellcheck disable=SC2086 # a program and its argument
LD_LIBRARY_PATH=$(libraries "$work/programs") "$work/programs"/$program >/dev/null 2>&1
rm -rf "$folder"
mv "$work/programs" "$folder"
