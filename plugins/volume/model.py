"""What is asked of volumes, and whether it makes sense. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias, get_args

import msgspec

from qnet.errors import Conflict, InvalidRequest
from qnet.folder import Kept
from qnet.schema import Retain, VolumeRecord
from qnet.tenants import DEFAULT, parse_tenant

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")  # as the docker command has them, and 128 of it
SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([a-z]*)")
UNITS = {"": 1, "b": 1} | {
    prefix + end: base**power
    for power, prefix in enumerate("kmgtp", 1)
    for end, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
LEAST, MOST = 1 << 20, 1 << 53
LEAST_BPS, MOST_BPS = 1 << 16, 12_500_000_000  # bytes per second: a few packets, and 100 Gbit/s
MOST_IOPS = 200_000
MOST_INODES = 1 << 40
MOST_ID = (1 << 32) - 2  # of a user or group; the last one means "leave it"

Options: TypeAlias = Mapping[str, str]


class Held(Kept, frozen=True, kw_only=True):
    """A volume that containers of this host have: `id` is the volume's own, `mounts` the engine's ids of its users.

    Kept until the last of them is gone, through restarts of the plugin. `died`: its client did, and some may have that
    one's mount still.
    """

    name: str
    mounts: tuple[str, ...]
    died: bool = False


def parse_name(name: str) -> str:
    """A volume's name, checked: engines let everything through. Raises InvalidRequest."""
    if not NAME.fullmatch(name) or ".." in name:
        raise InvalidRequest(
            f"{name[:64]!r} is no name of a volume: letters, digits, _ . and -, up to 128, beginning with a letter or "
            f"digit and without two dots in a row"
        )
    return name


def parse_size(text: str, option: str = "size") -> int:
    """A size in bytes.

    Raises:
        InvalidRequest: it is none, or not from 1M to 8P.
    """
    return _amount(text, option, (LEAST, MOST), "a size from 1M to 8P, such as 500M or 10G")


def parse_bytes(text: str, option: str) -> int:
    """A number of bytes of any size, as containers have them. Raises InvalidRequest."""
    return _amount(text, option, (1, MOST), "a size such as 256m or 4g")


def parse_bps(text: str, option: str = "bps") -> int:
    """Bytes per second. Raises InvalidRequest."""
    return _amount(text, option, (LEAST_BPS, MOST_BPS), "bytes per second from 64K to 12.5GB, such as 20M")


def parse_iops(text: str, option: str = "read_iops") -> int:
    """Operations per second. Raises InvalidRequest."""
    return _number(1, MOST_IOPS)(text, option)


def _amount(text: str, option: str, bounds: tuple[int, int], wanted: str) -> int:
    found = SIZE.fullmatch(text.lower())
    amount = int(Decimal(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if not bounds[0] <= amount <= bounds[1]:
        raise InvalidRequest(
            f"{option}={text[:32]}: {wanted} (K, M, G, T and KiB, MiB, … are binary, KB, MB, … decimal)"
        )
    return amount


def show_size(size: int) -> str:
    """A size in the largest binary unit that leaves it whole."""
    unit = next((power for power in range(5, 0, -1) if size % 1024**power == 0), 0)
    return f"{size // 1024**unit}{' KMGTP'[unit].strip()}" if size else "0"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a create asks for. `size` and `inodes` 0: no limit; `source`: the volume to begin as a copy of."""

    tenant: str = DEFAULT
    pool: str = ""
    size: int = 0
    inodes: int = 0
    mode: str = "0755"
    uid: int = 0
    gid: int = 0
    retain: Retain = "trash"
    source: str = ""
    strict: bool = False
    bps: int = 0
    read_iops: int = 0


def _number(low: int, high: int) -> Callable[[str, str], int]:
    def parse(text: str, option: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
            raise InvalidRequest(f"{option}={text[:32]}: a number from {low} to {high}")
        return int(text)

    return parse


def _mode(text: str, option: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}|[0-7]{4}", text):
        raise InvalidRequest(f"{option}={text[:32]}: permissions as chmod(1) has them in digits, such as 0770")
    return text.zfill(4)


def _retain(text: str, option: str) -> Retain:
    for known in get_args(Retain):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise InvalidRequest(f"{option}={text[:32]}: what becomes of the data: {', '.join(get_args(Retain))}")


def _flag(text: str, option: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidRequest(f"{option}={text[:32]}: true or false")
    return text == "true"


def _pool(text: str, option: str) -> str:
    if not NAME.fullmatch(text):
        raise InvalidRequest(f"{option}={text[:32]!r} is no name of a pool (qnet volume pool ls)")
    return text


OPTIONS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "size": ("size", parse_size),
    "inodes": ("inodes", _number(1, MOST_INODES)),
    "tenant": ("tenant", lambda text, _: parse_tenant(text)),
    "pool": ("pool", _pool),
    "mode": ("mode", _mode),
    "uid": ("uid", _number(0, MOST_ID)),
    "gid": ("gid", _number(0, MOST_ID)),
    "retain": ("retain", _retain),
    "strict": ("strict", _flag),
    "bps": ("bps", parse_bps),
    "read_iops": ("read_iops", parse_iops),
    "from": ("source", lambda text, _: parse_name(text)),
}
OF_AN_EMPTY_ONE = ("mode", "uid", "gid")
SIZES = ("size", "bps")
CHANGES = {  # what does to a volume that is there what an option does to a new one
    "size": "qnet volume resize {} SIZE",
    "bps": "qnet volume limit {} --bps SIZE",
    "read_iops": "qnet volume limit {} --read-iops N",
}


def parse_options(options: Options | None) -> Ask:
    """What the options of a create ask for.

    Raises:
        InvalidRequest: one is not known, or its value makes no sense.
    """
    unknown = sorted(set(options or ()) - set(OPTIONS))
    if unknown:
        raise InvalidRequest(f"-o {unknown[0][:32]}: no such option; there are: {', '.join(OPTIONS)}")
    for name in OF_AN_EMPTY_ONE:
        if name in (options or {}) and "from" in (options or {}):
            raise InvalidRequest(f"-o {name} together with -o from: a copy has the permissions of what it is a copy of")
    parsed = {OPTIONS[name][0]: OPTIONS[name][1](text, f"-o {name}") for name, text in (options or {}).items()}
    return Ask(**parsed)


def agree(record: VolumeRecord, ask: Ask, options: Options | None) -> None:
    """Whether a volume that is there is what is asked for. What is not said may be anything.

    Raises:
        Conflict: it belongs to another tenant, or differs; naming in what, and what to do.
    """
    if record.tenant != ask.tenant:
        raise Conflict(f"volume {record.name} belongs to another tenant: choose another name")
    for name in options or ():
        has, wanted = (getattr(each, OPTIONS[name][0]) for each in (record, ask))
        if has != wanted:
            shown = show_size(has) if name in SIZES else has
            how = f": {CHANGES[name].format(record.name)} changes it" if name in CHANGES else ""
            raise Conflict(f"volume {record.name} exists with {name}={shown}, not {(options or {})[name]}{how}")
