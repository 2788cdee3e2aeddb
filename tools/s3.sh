#!/bin/sh
# Runs an S3 server for the tests, in memory, on a free port of 127.0.0.1, for as long as standard input is open: whoever holds
# the pipe may be killed, and nothing is left behind. tools/s3/server.py says what it prints and which lines it obeys.
#   tools/s3.sh --fetch   only makes sure that the server is there: in .tools/s3, out of its Python packages.
set -eu
cd "$(dirname "$0")/.."

folder=.tools/s3
tools/fetch-packages.sh s3 tools/s3/requirements.txt
if [ "${1:-}" = --fetch ]; then
    exit
fi

# Neither this machine's credentials nor its settings have a say.
unset $(env | sed -n 's/^\(AWS_[A-Z0-9_]*\)=.*/\1/p')
export AWS_EC2_METADATA_DISABLED=true AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
export PYTHONPATH=$PWD/$folder PYTHONDONTWRITEBYTECODE=1 NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
exec python3 -W ignore tools/s3/server.py
