#!/bin/bash
# environment.sh DESTDIR: the files of the package, the same from the same commit wherever it is built.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=$(realpath -m "$1")
opt="$target/opt/qnet"
pip=${QNET_PIP:?the pip that installs}
units="$target/lib/systemd/system"

/usr/bin/python3 -m venv --without-pip "$opt"
"$pip" --python "$opt/bin/python3" --quiet --disable-pip-version-check install --no-compile --no-deps --require-hashes \
    --only-binary :all: -r "$root/packaging/runtime.lock"
"$pip" --python "$opt/bin/python3" --quiet --disable-pip-version-check install --no-compile --no-deps --no-index \
    "$root"/build/dist/qnet-*.whl

# What names the place of the build, or is of no use in a package: activation, records of installation, tests, sources of C.
site=$(echo "$opt"/lib/python3.*/site-packages)
rm -rf "$opt/include"
rm -f "$opt"/bin/activate* "$opt"/bin/Activate* "$opt/.gitignore"
find "$site" -path '*.dist-info/*' \( -name RECORD -o -name INSTALLER -o -name REQUESTED -o -name direct_url.json \) -delete
find "$site" -depth -type d \( -name tests -o -name test \) -not -path '*/click/*' -exec rm -r {} +
find "$site" \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' \
    "$(/usr/bin/python3 -c 'import platform; print(platform.python_version())')" >"$opt/pyvenv.cfg"
rm -f "$opt"/bin/python*
ln -s /usr/bin/python3 "$opt/bin/python3"
for script in "$opt"/bin/*; do
    [[ $script == */python3 ]] && continue
    case ${script##*/} in
        qnet | qnet-* | sharedfs) sed -i '1s|.*|#!/opt/qnet/bin/python3|' "$script" ;;
        *) rm "$script" ;;
    esac
done
find "$site" -type f -perm /111 -not -name '*.so*' -exec chmod -x {} +
/usr/bin/python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$target" -p / "$site"

"${pip%/*}/cyclonedx-py" environment --output-reproducible --output-file "$root/build/dist/qnet.sbom.json" "$opt/bin/python3"
install -D -m 644 "$root/build/dist/qnet.sbom.json" "$target/usr/share/doc/qnet/sbom.json"
install -D -m 755 "$root/packaging/systemd/backoff" "$opt/share/backoff"
install -d "$units" "$target/usr/bin" "$target/usr/share/doc/qnet"
install -m 644 "$root"/packaging/systemd/*.{service,socket,target} "$units/"
install -D -m 644 "$root/packaging/systemd/qnet.sysusers" "$target/usr/lib/sysusers.d/qnet.conf"
install -D -m 644 "$root/packaging/systemd/qnet.tmpfiles" "$target/usr/lib/tmpfiles.d/qnet.conf"
install -D -m 644 "$root/packaging/qnet.toml" "$target/etc/qnet/qnet.toml"
install -d -m 755 "$target/etc/qnet/tls"
ln -s /opt/qnet/bin/qnet "$target/usr/bin/qnet"

complete() { "$opt/bin/python3" -c 'from plugins.cli import main; main()' completion "$1"; }
install -d "$target/usr/share/bash-completion/completions" "$target/usr/share/zsh/vendor-completions" \
    "$target/usr/share/fish/vendor_completions.d"
complete bash >"$target/usr/share/bash-completion/completions/qnet"
complete zsh >"$target/usr/share/zsh/vendor-completions/_qnet"
complete fish >"$target/usr/share/fish/vendor_completions.d/qnet.fish"
for folder in prometheus grafana; do
    [[ -d $root/packaging/$folder ]] && cp -r "$root/packaging/$folder" "$target/usr/share/doc/qnet/"
done
cp -r "$root/docs" "$root/README.md" "$root/README.zh.md" "$root/CHANGELOG.md" "$target/usr/share/doc/qnet/"
find "$target" -name __pycache__ -not -path "$site/*" -exec rm -r {} +
