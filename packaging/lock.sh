#!/bin/bash
# Writes requirements.lock anew: every Python package that qnet and its tests need, with its version and the
# hashes of all its files on the Python package index; and packaging/runtime.lock, what qnet alone needs, of the same
# versions. Needs the network; packaging/bootstrap.sh installs from the first, `make deb` from the second.
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
# glustercli and docker speak ssh if paramiko is there; qnet has them do so nowhere, and it costs each daemon 7 MB.
without=(paramiko bcrypt pynacl invoke)
lock() {
    CUSTOM_COMPILE_COMMAND='packaging/lock.sh' "$tool/bin/pip-compile" --quiet --strip-extras \
        --generate-hashes --no-emit-index-url --no-emit-find-links "${without[@]/#/--unsafe-package=}" "$@"
}
echo "lock: resolving the dependencies of setup.cfg (with extra dev) into requirements.lock"
lock --upgrade --extra dev --output-file requirements.lock pyproject.toml packaging/lock.in
echo "lock: those of them that the package has into packaging/runtime.lock"
lock --constraint requirements.lock --no-annotate --output-file packaging/runtime.lock pyproject.toml
echo "lock: $(grep -c '==' requirements.lock) packages pinned, $(grep -c '==' packaging/runtime.lock) of them in the package"
