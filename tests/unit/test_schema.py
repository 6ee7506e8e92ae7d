"""Records of other releases: what is not known is not read, and what would be misunderstood is refused."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from qnet import schema
from qnet.errors import Internal
from qnet.schema import AddressRecord, PoolRecord

POOL = {"tenant": "default", "subnet": "10.77.0.0/24", "since": "2026-01-02T03:04:05+00:00"}
KINDS = [kind for _, kind in inspect.getmembers(schema, inspect.isclass) if kind.__name__.endswith("Record")]


def encoded(**fields: object) -> bytes:
    return msgspec.json.encode(POOL | fields)


def test_a_field_of_a_later_release_is_not_read_and_lost_when_this_one_writes() -> None:
    """docs/upgrade.md says what follows for those who add a field."""
    record = schema.decode(encoded(colour="red"), PoolRecord)
    assert record == PoolRecord(**POOL)  # type: ignore[arg-type]
    assert b"colour" not in schema.encode(msgspec.structs.replace(record, kept=True))


def test_a_record_without_a_version_is_of_the_first() -> None:
    assert schema.decode(encoded(), PoolRecord).v == 1
    assert b'"v"' not in schema.encode(PoolRecord(**POOL))  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [{}, {"subnet": 5}, {"exclude": "none"}])
def test_a_record_of_a_later_version_is_refused_whether_it_can_be_read_or_not(other: dict[str, object]) -> None:
    with pytest.raises(
        Internal, match="PoolRecord at K has version 2, of a later release of qnet; this one knows up to 1"
    ):
        schema.decode(encoded(v=2, **other), PoolRecord, "K")


def test_a_damaged_record_is_called_damaged() -> None:
    for data in (b"", b"{", b'{"v":"x"}', encoded(subnet=5)):
        with pytest.raises(Internal, match="damaged PoolRecord in the store at K"):
            schema.decode(data, PoolRecord, "K")


def test_every_kind_of_record_has_a_version() -> None:
    assert AddressRecord in KINDS
    for kind in KINDS:
        assert {field.name: field.default for field in msgspec.structs.fields(kind)}["v"] == 1
