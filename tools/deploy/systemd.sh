#!/bin/sh
# Holds the unit against systemd's own reading of it, and against a bound on what it may reach (0 is nothing, 10 is everything).
set -eu
cd "$(dirname "$0")/../.."

most=2.0
if ! command -v systemd-analyze >/dev/null; then
    echo "deploy/systemd/lensgate.service: NOT RUN (install the package systemd for systemd-analyze)"
    exit
fi

# The program that it starts is not installed here: /bin/true stands for it.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
sed 's|/usr/bin/lensgate|/bin/true|' deploy/systemd/lensgate.service >"$folder/lensgate.service"
said=$(SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$folder/lensgate.service" 2>&1) || {
    echo "$said" >&2
    exit 1
}
# It warns of what it does not know, and is content.
if echo "$said" | grep -F lensgate.service >&2; then exit 1; fi
threshold=$(echo "$most" | tr -d .)
systemd-analyze security --offline=true --threshold="$threshold" --no-pager "$folder/lensgate.service" >"$folder/said" 2>&1 || {
    cat "$folder/said" >&2
    echo "deploy/systemd/lensgate.service reaches more than $most" >&2
    exit 1
}
echo "deploy/systemd/lensgate.service: $(sed -n 's/^→ Overall exposure level[^0-9]*\([0-9.]*\).*/it reaches \1 of 10/p' "$folder/said")"
