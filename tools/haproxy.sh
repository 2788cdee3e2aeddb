#!/bin/sh
# Runs an HAProxy for the tests, in front of replicas, in a temporary folder, on a free port of 127.0.0.1, for as long as standard
# input is open: whoever holds the pipe may be killed, and nothing is left behind.
#   tools/haproxy.sh HOST:PORT...   prints its URL once it listens. It asks each of these for /health/ready five times a second,
#                                   and sends requests to those that are ready, in turn.
#   tools/haproxy.sh --fetch        only makes sure that the program is there: on the PATH, else in .tools/haproxy, out of the
#                                   distribution's packages, which are not installed: that takes no root, and starts no service.
set -eu
cd "$(dirname "$0")/.."

fetched=$PWD/.tools/haproxy
name=haproxy
. tools/server.sh

# Prints the program; fails where there is none. Also an administrator's place, which is not on everybody's PATH.
find_program() {
    if command -v haproxy >/dev/null; then
        command -v haproxy
    elif [ -x /usr/sbin/haproxy ]; then
        echo /usr/sbin/haproxy
    elif [ -x "$fetched/usr/sbin/haproxy" ]; then
        echo "$fetched/usr/sbin/haproxy"
    else
        return 1
    fi
}

if ! program=$(find_program); then
    # What else of its libraries a plain system does not have.
    needs='(liblua|libopentracing|libpcre2-8|libjemalloc).*'
    { tools/fetch-debs.sh haproxy 'usr/sbin/haproxy -v' haproxy "$needs" && program=$(find_program); } || {
        say "there is no HAProxy, and none can be fetched: install haproxy (2.2 or newer)"
        exit 1
    }
fi
case $program in
"$fetched"/*) LD_LIBRARY_PATH=$(tools/fetch-debs.sh --libraries haproxy) && export LD_LIBRARY_PATH ;;
esac
case ${1:-} in
--fetch)
    "$program" -v 2>&1 | head -n 1 >&2
    exit
    ;;
'' | -*)
    say "usage: tools/haproxy.sh HOST:PORT... | --fetch"
    exit 2
    ;;
esac

leave_session "$@"

folder=$(mktemp -d)
server=
stop() {
    [ -n "$server" ] || return 0
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

replicas=$*
configure() {
    cat <<CONFIG
global
    maxconn 1000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1
frontend clients
    bind 127.0.0.1:$port
    default_backend replicas
backend replicas
    balance roundrobin
    option httpchk GET /health/ready
    default-server check inter 200ms fall 1 rise 1
CONFIG
    number=0
    for replica in $replicas; do
        number=$((number + 1))
        echo "    server replica$number $replica"
    done
}

start() {
    configure >"$folder/haproxy.cfg"
    "$program" -db -f "$folder/haproxy.cfg" >"$folder/server.log" 2>&1 </dev/null &
    server=$!
    waits=0
    until python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; do
        waits=$((waits + 1))
        if ! kill -0 "$server" 2>/dev/null || [ $waits -eq 200 ]; then
            stop
            return 1
        fi
        sleep 0.05
    done
}

start_on_a_free_port 'cannot bind\|in use'
echo "http://127.0.0.1:$port"

while read -r _; do :; done
