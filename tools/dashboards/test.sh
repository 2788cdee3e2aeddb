#!/bin/sh
# What must hold of dashboards, rules and alerts without a gateway: `make test-observability`.
# tools/dashboards/check.py --against URL runs every query on a Prometheus that asks one (tools/prometheus.sh).
set -eu
cd "$(dirname "$0")/../.."
export PYTHONDONTWRITEBYTECODE=1

tools/prometheus.sh --fetch
python3 tools/dashboards/check.py
tools/dashboards/schema.sh
tools/prometheus.sh --promtool check rules dashboards/rules/*.yml

# Prometheus's settings name the rules where the compose file mounts them; here they lie beside.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
sed "s|/etc/prometheus/rules|$PWD/dashboards/rules|" dashboards/prometheus.yml >"$folder/prometheus.yml"
tools/prometheus.sh --promtool check config "$folder/prometheus.yml"
tools/prometheus.sh --promtool test rules dashboards/rules/tests/*.yml
