"""What a host keeps of its cluster: certificates beside the settings file, and that file. Each write can be undone."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from qnet import authority, settings
from qnet.authority import Pair
from qnet.errors import InvalidRequest

PUBLIC, SECRET, SHARED = 0o644, 0o600, 0o640
GROUP = "qnet"  # the daemons' that are not root
TLS_FILES = ("ca", "cert", "key")
OF = {"agent": "host", "scheduler": "scheduler", "gateway": "scheduler", "client": "client"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where they are: `settings` is /etc/qnet/qnet.toml, on hosts that are no test."""

    settings: Path

    @property
    def tls(self) -> Path:
        """The certificates' folder."""
        return self.settings.parent / "tls"

    def files(self, name: str) -> tuple[str, str, str]:
        """Authority, certificate and key of a name such as `host`."""
        return str(self.tls / "ca.pem"), str(self.tls / f"{name}.pem"), str(self.tls / f"{name}.key")

    @property
    def initialised(self) -> bool:
        """Whether this host is part of a cluster."""
        return (self.tls / "host.pem").exists()

    def put_pair(self, undo: ExitStack, name: str, pair: Pair, *, shared: bool) -> None:
        """Write a certificate and its key; `shared`: for daemons that are not root."""
        put(undo, self.tls / f"{name}.pem", pair.cert_pem)
        if shared and (gid := _gid()) is not None:
            put(undo, self.tls / f"{name}.key", pair.key_pem, SHARED, (0, gid))
        else:
            put(undo, self.tls / f"{name}.key", pair.key_pem, SECRET)

    def put_settings(self, undo: ExitStack, wanted: Mapping[str, Mapping[str, object]]) -> None:
        """Set options in the settings file; everything else in it stays, comments too. Raises InvalidRequest."""
        if self.tls != settings.DEFAULT_FILE.parent / "tls":
            own = {section: dict(zip(TLS_FILES, self.files(name), strict=True)) for section, name in OF.items()}
            wanted = {name: {**own.get(name, {}), **wanted.get(name, {})} for name in {**own, **wanted}}
        try:
            document = tomlkit.parse(self.settings.read_text() if self.settings.exists() else "")
            for section, options in wanted.items():
                table = document.setdefault(section, tomlkit.table())
                if not isinstance(table, dict):
                    raise InvalidRequest(f"settings file {self.settings}: {section} is no section: write [{section}]")
                for option, value in options.items():
                    table[option] = list(value) if isinstance(value, tuple) else value
            text = tomlkit.dumps(document)
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"settings file {self.settings} is not TOML: {error}") from error
        put(undo, self.settings, text.encode())
        settings.load(self.settings)


def put(undo: ExitStack, path: Path, data: bytes, mode: int = PUBLIC, owner: tuple[int, int] = (-1, -1)) -> None:
    """Write a file in one step, that nobody sees half or too open; `undo` brings back what was there.

    Raises:
        InvalidRequest: it cannot be written.
    """
    try:
        _make_folder(undo, path.parent)
        if path.exists():
            before, was = path.read_bytes(), path.stat()
            undo.callback(replace, path, before, was.st_mode & 0o777, (was.st_uid, was.st_gid))
        else:
            undo.callback(path.unlink, missing_ok=True)
        replace(path, data, mode, owner)
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror}: run this as root") from error


def replace(path: Path, data: bytes, mode: int, owner: tuple[int, int] = (-1, -1)) -> None:
    """Write a file in one step; it is on disk when this returns. Raises OSError."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as out:
            out.write(data)
            os.fchown(number, *owner)
            os.fchmod(number, mode)
            out.flush()
            os.fsync(number)
        os.replace(name, path)  # noqa: PTH105 - a name, not a Path
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


def user(name: str) -> tuple[int, int]:
    """A user's ids. Raises InvalidRequest: there is no such user."""
    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise InvalidRequest(f"there is no user {name}: apt install etcd-server") from error
    return found.pw_uid, found.pw_gid


def renewed(place: Place, signer: authority.Authority, days: int) -> dict[str, Pair]:
    """This host's certificates anew, by the names of their files; the authority's own is not among them."""
    found = {}
    for one in authority.certificates(place.tls):
        if one.role != "authority":
            old = Pair.read(one.file, one.file.with_suffix(".key"))
            found[one.file.stem] = signer.renew(old.cert, days)
    return found


def _make_folder(undo: ExitStack, folder: Path) -> None:
    if not folder.exists():
        _make_folder(undo, folder.parent)
        folder.mkdir()
        undo.callback(folder.rmdir)
        folder.chmod(0o755)  # whatever the umask: daemons that are not root read here


def _gid() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
