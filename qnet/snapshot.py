"""Backups of the cluster's state: a line of JSON that says what it is, then the keys, packed."""

from __future__ import annotations

import hashlib
import zlib
from importlib.metadata import version

import msgspec

from qnet import schema
from qnet.errors import InvalidRequest
from qnet.store.base import Store

FORMAT = 1


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. `revision`: that of the store when all of it was read; `size`, in bytes,
    and `sha256` are of what follows."""

    format: int = FORMAT
    qnet: str
    revision: int
    time: str
    keys: int
    size: int
    sha256: str


class Snapshot(msgspec.Struct, frozen=True):
    """The keys and values of a backup."""

    header: Header
    values: dict[str, bytes]


def take(store: Store, now: str) -> bytes:
    """A backup of the store as it is at one revision, in pages that hold up no writer.

    What is under a lease is left out: it tells of processes that live and of moments that pass (who is up, who holds a
    lock, what rests), and would be untrue when it comes back.
    """
    found = store.range(schema.ROOT)
    values = {kv.key: kv.value for kv in found.kvs if not kv.lease and kv.key != schema.RESTORE}
    packed = zlib.compress(msgspec.msgpack.encode(values))
    header = Header(
        qnet=version("qnet"),
        revision=found.revision,
        time=now,
        keys=len(values),
        size=len(packed),
        sha256=hashlib.sha256(packed).hexdigest(),
    )
    return msgspec.json.encode(header) + b"\n" + packed


def read(data: bytes, name: str) -> Snapshot:
    """What a backup holds.

    Raises:
        InvalidRequest: it is none, damaged, or of a later release.
    """
    line, _, packed = data.partition(b"\n")
    try:
        told = msgspec.json.decode(line, type=dict)
        if isinstance(told.get("format"), int) and told["format"] > FORMAT:
            raise InvalidRequest(
                f"{name} has format {told['format']}, of qnet {told.get('qnet')}; this is {version('qnet')}, which "
                f"reads up to {FORMAT}: restore with that release or a later one"
            )
        header = msgspec.convert(told, Header)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{name} is no backup of qnet: {error}") from error
    if len(packed) != header.size or hashlib.sha256(packed).hexdigest() != header.sha256:
        raise InvalidRequest(
            f"{name} is damaged: {len(packed)} of {header.size} bytes, or others than were written: take another backup"
        )
    try:
        values = msgspec.msgpack.decode(zlib.decompress(packed), type=dict[str, bytes])
    except (zlib.error, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"{name} is damaged: {error}") from error
    strangers = [key for key in values if not key.startswith(schema.ROOT)]
    if strangers or len(values) != header.keys:
        raise InvalidRequest(f"{name} is damaged: {len(values)} of {header.keys} keys, {len(strangers)} not qnet's")
    return Snapshot(header, values)
