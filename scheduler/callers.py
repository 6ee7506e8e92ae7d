"""Who calls: users of this host by the socket's mode, others by certificate."""

from __future__ import annotations

import pwd
import socket
import ssl
import struct
from dataclasses import dataclass

from qnet.certificates import peer_of
from qnet.errors import QnetError


@dataclass(frozen=True, slots=True)
class Caller:
    """An operator, or somebody of one tenant. `process` tells callers with the same rights apart: a process of this
    host, an address elsewhere."""

    who: str
    tenant: str = ""
    process: str = ""

    @property
    def operator(self) -> bool:
        """Whether everything is theirs."""
        return not self.tenant


class Forbidden(QnetError):
    """The caller may not do this."""


def caller_of(connection: socket.socket | ssl.SSLObject | None, address: str = "") -> Caller:
    """Who is at the other end: of TLS, its certificate says; whoever may use a unix socket is an operator.

    Raises:
        Forbidden: neither, or a certificate of no caller.
    """
    if isinstance(connection, ssl.SSLSocket | ssl.SSLObject):
        peer = peer_of(connection)
        if peer is not None and peer.role == "operator":
            return Caller(f"operator {peer.name}", process=address)
        if peer is not None and peer.role == "tenant":
            return Caller(f"tenant {peer.name}", peer.name, address)
        raise Forbidden("certificates of operators and tenants only")
    if connection is not None and connection.family == socket.AF_UNIX:
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            return Caller(f"user {pwd.getpwuid(uid).pw_name}", process=str(pid))
        except KeyError:
            return Caller(f"user {uid}", process=str(pid))
    raise Forbidden("neither a unix socket nor a certificate")
