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
name=prometheus
. tools/server.sh

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

if ! programs=$(find_programs); then
    { tools/fetch-debs.sh prometheus 'usr/bin/promtool --version' prometheus && programs=$(find_programs); } || {
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

leave_session "$@"

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

start_on_a_free_port 'address already in use'
echo "http://127.0.0.1:$port"

while read -r _; do :; done
