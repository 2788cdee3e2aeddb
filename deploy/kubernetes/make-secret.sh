#!/bin/sh
# Prints the Secret that the pods read: the database's URL from standard input, an API key and an admin token made here.
#   echo 'postgres://user:password@host:5432/lensgate' | deploy/kubernetes/make-secret.sh | kubectl apply -f -
# Once: with other values on a database that has been started with, key and token count for nothing. To read one again:
#   kubectl -n lensgate get secret lensgate -o 'go-template={{index .data "bootstrap-admin-token" | base64decode}}'
set -eu

read -r url || true
case ${url:-} in
postgres://* | sqlite://*) ;;
*)
    echo "make-secret: standard input must hold the database's URL, postgres://… or sqlite://…" >&2
    exit 2
    ;;
esac

encoded() { printf '%s' "$1" | base64 | tr -d '\n'; }
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

cat <<SECRET
apiVersion: v1
kind: Secret
metadata:
  name: ${LENSGATE_SECRET:-lensgate}
  namespace: ${LENSGATE_NAMESPACE:-lensgate}
type: Opaque
data:
  store-url: $(encoded "$url")
  bootstrap-api-key: $(encoded "$(random)")
  bootstrap-admin-token: $(encoded "$(random)")
SECRET
