#!/bin/bash
# Builds into build/dist the wheel and the sdist (`make dist`), then the Debian package and the list of what is in it.
#   packaging/deb.sh [dist]
# The same commit gives the same bytes: times are the commit's, hashes are pinned in packaging/runtime.lock.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${QNET_LAB_BUILD:-$root/build}  # another place, to see that nothing depends on it
dist="$build/dist"
stage="$build/deb"
python="$root/.venv/bin/python"

cd "$root"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022
version=${QNET_VERSION:-$("$python" -c 'import importlib.metadata; print(importlib.metadata.version("qnet"))')}
revision=1

rm -rf "$stage" "$dist"
mkdir -p "$stage/qnet-$version" "$dist"
git ls-files -z --cached --others --exclude-standard | xargs -0 -I{} sh -c '[ ! -e "$1" ] || cp -P --parents "$1" "$2"' sh {} "$stage/qnet-$version"
source="$stage/qnet-$version"
cd "$source"
find . -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
sed -i "s/^version = .*/version = $version/" setup.cfg

"$python" -c 'from setuptools.build_meta import build_sdist, build_wheel; build_sdist("build/dist"); build_wheel("build/dist")' \
    >"$stage/dist.log" 2>&1 || { cat "$stage/dist.log"; exit 1; }
cp build/dist/* "$dist/"
[[ ${1:-} == dist ]] && exit 0

cp -r packaging/debian debian
"$python" -m tests.man build/man
find build/man -type f >debian/qnet.manpages
cat >debian/changelog <<EOF
qnet ($version-$revision) unstable; urgency=medium

  * See /usr/share/doc/qnet/CHANGELOG.md.

 -- qnet developers <qnet@localhost.invalid>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
EOF
QNET_PIP="$root/.venv/bin/pip" dpkg-buildpackage --build=binary --unsigned-changes --unsigned-buildinfo \
    >"$stage/build.log" 2>&1 || { tail -n 40 "$stage/build.log"; exit 1; }
mv "$stage"/*.deb build/dist/qnet.sbom.json "$dist/"
ls -l "$dist"
