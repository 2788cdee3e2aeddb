#!/bin/sh
# Holds the dashboards against Grafana's schema; its types are fetched into .tools/dashboards once.
#   tools/dashboards/schema.sh [FILE...]
set -eu
cd "$(dirname "$0")/../.."

folder=.tools/dashboards
tools/fetch-packages.sh dashboards tools/dashboards/requirements.txt --require-hashes
PYTHONPATH=$PWD/$folder PYTHONDONTWRITEBYTECODE=1 exec python3 tools/dashboards/schema.py "$@"
