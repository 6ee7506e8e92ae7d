"""What another host needs to join a cluster, in one line: its certificates with their keys, and where etcd is."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from datetime import UTC, datetime

import msgspec
from cryptography import x509

from qnet.authority import SKEW, Pair, owner_of, signed_by
from qnet.errors import InvalidRequest

MARK = "qnet1."
LONGEST = 4000  # characters: terminals cut longer lines (termios(3): 4096 with the command around it)
CHECK = 8  # bytes of the digest
MOST = 1 << 16  # bytes that an invitation may unpack to


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """For the host `name` at `address`. `issued` in seconds since 1970. Certificates and keys are DER.

    `etcd_tls`: etcd knows the cluster's certificates; else the host has others for it, if any, in `etcd_files`
    (authority, certificate, key).
    """

    name: str
    address: str
    parent: str
    endpoints: tuple[str, ...]
    issued: int
    ca: bytes
    host: tuple[bytes, bytes]
    scheduler: tuple[bytes, bytes]
    etcd_tls: bool = True
    etcd_files: tuple[str, str, str] = ("", "", "")

    def line(self) -> str:
        """The text. Raises InvalidRequest: it is too long for a terminal."""
        packed = zlib.compress(msgspec.msgpack.encode(self), 9)
        text = MARK + base64.urlsafe_b64encode(_digest(packed) + packed).decode().rstrip("=")
        if len(text) > LONGEST:
            raise InvalidRequest(f"the invitation has {len(text)} characters, more than {LONGEST}: give fewer names")
        return text


class Credentials(msgspec.Struct, frozen=True):
    """The certificates of an invitation, checked."""

    ca: x509.Certificate
    host: Pair
    scheduler: Pair


def read(text: str) -> Invitation:
    """The invitation of a line.

    Raises:
        InvalidRequest: it is none, cut or changed.
    """
    text = text.strip()
    if not text.startswith(MARK):
        raise InvalidRequest(
            "no invitation on standard input: paste the whole line that qnet invite printed, echo 'qnet1.…' | qnet join"
        )
    body = text.removeprefix(MARK)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        packed = raw[CHECK:]
        unpacked = zlib.decompressobj().decompress(packed, MOST) if _digest(packed) == raw[:CHECK] else b""
        return msgspec.msgpack.decode(unpacked, type=Invitation)
    except (ValueError, binascii.Error, zlib.error, msgspec.MsgspecError) as error:
        raise InvalidRequest(
            f"the invitation is cut or changed ({len(text)} characters): copy the whole line that qnet invite printed"
        ) from error


def check(invitation: Invitation, now: datetime | None = None) -> Credentials:
    """The certificates of an invitation, if they are what it says and valid now.

    Raises:
        InvalidRequest: they are another's or another authority's, have ended, or this machine's clock is wrong.
    """
    now = now or datetime.now(UTC)
    try:
        ca = x509.load_der_x509_certificate(invitation.ca)
        found = Credentials(ca, Pair.of_der(*invitation.host), Pair.of_der(*invitation.scheduler))
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"the invitation has a damaged certificate: {error}") from error
    for role, pair in (("host", found.host), ("scheduler", found.scheduler)):
        if owner_of(pair.cert) != (role, invitation.name) or not signed_by(pair.cert, ca):
            raise InvalidRequest(
                f"the invitation's {role} certificate is not {invitation.name}'s by its authority: ask for another"
            )
    behind = datetime.fromtimestamp(invitation.issued, UTC) - now
    if behind > SKEW:
        raise InvalidRequest(
            f"this machine's clock is {int(behind.total_seconds())} s behind that of the host which invites: set it "
            f"right (timedatectl set-ntp true), then type the line again"
        )
    until = min(found.host.cert.not_valid_after_utc, found.scheduler.cert.not_valid_after_utc)
    if until <= now:
        raise InvalidRequest(
            f"the invitation's certificates ended at {until:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M}: set it right, or ask for another (qnet invite {invitation.name})"
        )
    return found


def _digest(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest()[:CHECK]
