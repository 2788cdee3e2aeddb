#!/bin/sh
# Starts deploy/compose.yaml. What is secret is made here once, in deploy/secrets; with the same files it comes up the same again.
#   deploy/up.sh                        builds the image where it is not there, and starts all
#   deploy/up.sh --secrets              only makes the secrets
#   deploy/up.sh stop | down | logs …   any other word goes to compose
#   LENSGATE_COMPOSE                    the command, where it is not `docker compose`, e.g. podman-compose
set -eu
cd "$(dirname "$0")"

secrets=secrets

# make_secret NAME [TEXT]: a file that is there is kept; of one that is cut off, nobody should make a password.
make_secret() {
    if [ -s "$secrets/$1" ]; then return; fi
    text=${2:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
    (umask 077 && printf '%s' "$text" >"$secrets/$1.part")
    # Containers read it as users of their own; on this machine nobody else gets into the folder.
    chmod 444 "$secrets/$1.part"
    mv "$secrets/$1.part" "$secrets/$1"
}

mkdir -p "$secrets"
chmod 700 "$secrets"
make_secret postgres-password
make_secret store-url "postgres://lensgate:$(cat "$secrets/postgres-password")@postgres:5432/lensgate"
make_secret bootstrap-api-key
make_secret bootstrap-admin-token
make_secret grafana-password
if [ "${1:-}" = --secrets ]; then exit; fi

compose=${LENSGATE_COMPOSE:-docker compose}
if [ $# -gt 0 ]; then
    exec $compose --file compose.yaml "$@"
fi
$compose --file compose.yaml up --detach
cat <<TEXT
The gateway      http://127.0.0.1:${LENSGATE_PORT:-8080}/docs    API key: deploy/$secrets/bootstrap-api-key
Operators        http://127.0.0.1:8081/docs    token: deploy/$secrets/bootstrap-admin-token
Grafana          http://127.0.0.1:3000         user admin, password: deploy/$secrets/grafana-password
Prometheus       http://127.0.0.1:9090
TEXT
