"""Where a daemon listens."""

from __future__ import annotations

from qnet.errors import InvalidRequest


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises InvalidRequest."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidRequest(f"{text!r} is no place to listen: HOST:PORT, as in 0.0.0.0:7443")
    return host.strip("[]"), int(port)
