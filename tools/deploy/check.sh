#!/bin/sh
# Holds what is in deploy/ against the schemas that say what it may be, and against the gateway: `make check` calls it.
#   tools/deploy/check.sh            the check; what cannot be run here is said
#   tools/deploy/check.sh --write    first writes what follows from dashboards/rules anew
set -eu
cd "$(dirname "$0")/../.."

programs=.tools/deploy-programs
tools/fetch-packages.sh deploy tools/deploy/requirements.txt
if [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; then
    tools/fetch-packages.sh deploy-programs tools/deploy/programs.txt --require-hashes
    if [ ! -x $programs/helm ]; then
        # A package within a package within a package.
        python3 - $programs <<'PYTHON'
import io, os, pathlib, sys, tarfile, zipfile
folder = pathlib.Path(sys.argv[1])
(package,) = folder.glob("aws_cdk/*/_jsii/*.tgz")
with tarfile.open(package) as outer, zipfile.ZipFile(io.BytesIO(outer.extractfile("package/lib/layer.zip").read())) as inner:
    for name in ("kubectl", "helm"):
        part = folder / f"{name}.part"
        part.write_bytes(inner.read(f"{name}/{name}"))
        part.chmod(0o755)
        os.replace(part, folder / name)
package.unlink()
PYTHON
    fi
fi

export PYTHONPATH=$PWD/.tools/deploy PYTHONDONTWRITEBYTECODE=1
python3 tools/deploy/check.py "$@"
tools/deploy/systemd.sh
if [ -x $programs/bin/hadolint ]; then
    $programs/bin/hadolint --config tools/deploy/hadolint.yaml deploy/Dockerfile deploy/Dockerfile.cuda
fi
for script in deploy/*.sh deploy/*/*.sh; do sh -n "$script"; done
