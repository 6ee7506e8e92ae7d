"""Where a daemon listens."""

from __future__ import annotations

import getpass
import grp
import ipaddress
import shutil
from pathlib import Path

from qnet.errors import InvalidRequest


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises InvalidRequest."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidRequest(f"{text!r} is no place to listen: HOST:PORT, as in 0.0.0.0:7443")
    return host.strip("[]"), int(port)


def location(host: str, port: int) -> str:
    """The same as a text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def share(path: Path, option: str, group: str) -> None:
    """Let a group use a socket that only its owner may use so far. Raises InvalidRequest."""
    try:
        grp.getgrnam(group)
        shutil.chown(path, group=group)
        path.chmod(0o660)
    except KeyError as error:
        raise InvalidRequest(f"{option} is {group!r}: there is no such group: groupadd {group}") from error
    except PermissionError as error:
        user = getpass.getuser()
        raise InvalidRequest(f"{option} is {group!r}: {user} is not in it: usermod -aG {group} {user}") from error


def is_loopback(host: str) -> bool:
    """Whether nobody but this host reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
