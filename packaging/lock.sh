#!/bin/bash
# Writes requirements.lock anew: every Python package that qnet and its tests need, with its version and the
# hashes of all its files on the Python package index. Needs the network; packaging/bootstrap.sh installs from it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tool="$root/build/lock"
python=${QNET_PYTHON:-/usr/bin/python3}

# Hashes must be those of the public index: a machine's own wheel folders and mirrors are left out.
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL PIP_INDEX_URL PIP_NO_INDEX
export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1

if [[ ! -x $tool/bin/pip-compile ]]; then
    echo "lock: pip-tools in $tool"
    "$python" -m venv "$tool"
    "$tool/bin/pip" install --quiet 'pip-tools>=7.4'
fi

cd "$root"
echo "lock: resolving the dependencies of setup.cfg (with extra dev) into requirements.lock"
CUSTOM_COMPILE_COMMAND='packaging/lock.sh' "$tool/bin/pip-compile" --quiet --upgrade --strip-extras --allow-unsafe \
    --generate-hashes --no-emit-index-url --no-emit-find-links --extra dev \
    --output-file requirements.lock pyproject.toml packaging/lock.in
echo "lock: $(grep -c '==' requirements.lock) packages pinned"
