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

say() { echo "haproxy: $*" >&2; }

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

# Its own libraries, where they lie beside it.
libraries() {
    [ -d "$1/usr/lib" ] || return 0
    find "$1/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -s -d :
}

# Lists and archives of its own: apt's are not readable for everybody, and another apt-get may hold its locks.
fetch_packages() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    say "fetching the distribution's packages"
    mkdir -p .tools
    work=$(mktemp -d "$PWD/.tools/haproxy.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/programs"
    set -- -qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root
    (
        cd "$work"
        apt-get "$@" update >&2 || exit 1
        # What else of its libraries a plain system does not have.
        needs=$(apt-cache -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" depends --recurse --no-recommends \
            --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances haproxy |
            grep -oE '^(liblua|libopentracing|libpcre2-8|libjemalloc)[^ ]*' | sort -u)
        # shellcheck disable=SC2086 # a list of packages
        apt-get "$@" download haproxy $needs >&2 || exit 1
        for package in *.deb; do dpkg-deb -x "$package" programs || exit 1; done
        LD_LIBRARY_PATH=$(libraries "$work/programs") programs/usr/sbin/haproxy -v >/dev/null 2>&1
    ) && rm -rf "$fetched" && mv "$work/programs" "$fetched" || return 1
}

if ! program=$(find_program); then
    { fetch_packages && program=$(find_program); } || {
        say "there is no HAProxy, and none can be fetched: install haproxy (2.2 or newer)"
        exit 1
    }
fi
case $program in
"$fetched"/*) LD_LIBRARY_PATH=$(libraries "$fetched") && export LD_LIBRARY_PATH ;;
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

# A session of its own: a Ctrl-C or a kill of the tests' whole process group does not reach it, the closed pipe does.
if [ -z "${LENSGATE_TEST_HAPROXY_SESSION:-}" ] && command -v setsid >/dev/null; then
    LENSGATE_TEST_HAPROXY_SESSION=1 exec setsid --wait "tools/$(basename "$0")" "$@"
fi

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
    for replica; do
        number=$((number + 1))
        echo "    server replica$number $replica"
    done
}

tries=0
while :; do
    # Below the ports that the system gives to clients.
    port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
    configure "$@" >"$folder/haproxy.cfg"
    "$program" -db -f "$folder/haproxy.cfg" >"$folder/log" 2>&1 </dev/null &
    server=$!
    waits=0
    while kill -0 "$server" 2>/dev/null && [ $waits -lt 200 ]; do
        python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null && break 2
        waits=$((waits + 1))
        sleep 0.05
    done
    stop
    tries=$((tries + 1))
    # Only a port in use is a reason to try another one.
    if [ $tries -eq 10 ] || ! grep -qi 'cannot bind\|in use' "$folder/log"; then
        say "it does not start:"
        cat "$folder/log" >&2
        exit 1
    fi
done
echo "http://127.0.0.1:$port"

while read -r _; do :; done
