#!/bin/sh
# Runs a Prometheus for the tests, in a temporary folder, on a free port of 127.0.0.1, for as long as standard input is open:
# whoever holds the pipe may be killed, and nothing is left behind.
#   tools/prometheus.sh HOST:PORT...         prints its URL once it answers. It asks these targets for /metrics every second
#                                            and evaluates dashboards/rules every second: no group there has its own interval.
#   tools/prometheus.sh --fetch              only makes sure that the programs are there: on the PATH, else in
#                                            .tools/prometheus, out of the distribution's package, which is not installed:
#                                            that takes no root, and starts no service.
#   tools/prometheus.sh --promtool ARGS...   runs promtool with these.
set -eu
cd "$(dirname "$0")/.."

fetched=$PWD/.tools/prometheus

say() { echo "prometheus: $*" >&2; }

# Prints the folder of the programs; fails where there are none.
find_programs() {
    if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
        dirname "$(command -v prometheus)"
    elif [ -x "$fetched/usr/bin/prometheus" ] && [ -x "$fetched/usr/bin/promtool" ]; then
        echo "$fetched/usr/bin"
    else
        return 1
    fi
}

# Lists and archives of its own: apt's are not readable for everybody, and another apt-get may hold its locks.
fetch_package() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    say "fetching the distribution's package"
    mkdir -p .tools
    work=$(mktemp -d "$PWD/.tools/prometheus.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/programs"
    set -- -qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root
    (
        cd "$work"
        apt-get "$@" update >&2 &&
            apt-get "$@" download prometheus >&2 &&
            dpkg-deb -x prometheus_*.deb programs &&
            programs/usr/bin/prometheus --version >/dev/null 2>&1 &&
            programs/usr/bin/promtool --version >/dev/null 2>&1
    ) && rm -rf "$fetched" && mv "$work/programs" "$fetched" || return 1
}

if ! programs=$(find_programs); then
    { fetch_package && programs=$(find_programs); } || {
        say "there is no Prometheus, and none can be fetched: install prometheus and promtool (2.42 or newer)"
        exit 1
    }
fi
case ${1:-} in
--fetch)
    "$programs/prometheus" --version 2>&1 | head -n 1 >&2
    exit
    ;;
--promtool)
    shift
    exec "$programs/promtool" "$@"
    ;;
'' | -*)
    say "usage: tools/prometheus.sh HOST:PORT... | --fetch | --promtool ARGS..."
    exit 2
    ;;
esac

# A session of its own: a Ctrl-C or a kill of the tests' whole process group does not reach it, the closed pipe does.
if [ -z "${LENSGATE_TEST_PROMETHEUS_SESSION:-}" ] && command -v setsid >/dev/null; then
    LENSGATE_TEST_PROMETHEUS_SESSION=1 exec setsid --wait "tools/$(basename "$0")" "$@"
fi

folder=$(mktemp -d)
server=
stop() {
    [ -n "$server" ] || return 0
    # What it has stored goes with its folder: it need not write anything in its end.
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

targets=
for target; do targets="$targets${targets:+, }\"$target\""; done
cat >"$folder/prometheus.yml" <<CONFIG
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files: ["$PWD/dashboards/rules/*.yml"]
scrape_configs:
  - job_name: lensgate
    static_configs: [{targets: [$targets]}]
CONFIG

# Starts the server on $port; fails where it ends instead of answering.
start() {
    "$programs/prometheus" --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" \
        --storage.tsdb.retention.time=1d --web.listen-address="127.0.0.1:$port" >"$folder/server.log" 2>&1 </dev/null &
    server=$!
    until grep -q 'Server is ready to receive web requests' "$folder/server.log"; do
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
}

tries=0
while :; do
    # Below the ports that the system gives to clients.
    port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
    if start; then break; fi
    server=
    tries=$((tries + 1))
    # Only a port in use is a reason to try another one.
    if [ $tries -eq 10 ] || ! grep -q 'address already in use' "$folder/server.log"; then
        say "the server does not start:"
        cat "$folder/server.log" >&2
        exit 1
    fi
done
echo "http://127.0.0.1:$port"

while read -r _; do :; done
