"""Address records: who has an address, in words, and what goes with it."""

from __future__ import annotations

import msgspec

from qnet import schema
from qnet.addresses.model import IPAddress
from qnet.addresses.openpool import Stored
from qnet.schema import AddressRecord, MacRecord
from qnet.store.base import Compare, Delete, Op, Txn

SHARED_WORDS = {"gateway": "it is the pool's gateway", "auxiliary": "it is an auxiliary address of a network"}


def changed(record: AddressRecord, **fields: object) -> AddressRecord:
    """The record with other fields."""
    return msgspec.structs.replace(record, **fields)


def mac_record(address: IPAddress, record: AddressRecord) -> MacRecord:
    """The claim of the MAC address that goes with a record."""
    return MacRecord(address=str(address), host=record.host, claim=record.claim)


def without_mac(tenant: str, stored: Stored) -> tuple[Op, ...]:
    """Delete the claim of the MAC address if it is this record's."""
    if not stored.record.mac:
        return ()
    key = schema.mac_key(tenant, stored.record.mac)
    own = schema.encode(mac_record(stored.address, stored.record))
    return (Txn((Compare(key, "value", "=", own),), (Delete(key),)),)


def describe(record: AddressRecord) -> str:
    """Who has an address, in words."""
    if record.kind in SHARED_WORDS:
        return SHARED_WORDS[record.kind]
    if record.kind == "reservation":
        return f"it is reserved{f' ({record.note})' if record.note else ''}"
    if record.kind == "quarantine":
        return f"it is quarantined ({record.note})"
    if record.kind == "host":
        return f"it is {record.host}'s own on this network (host_access)"
    whom = f"container {record.container}" if record.container else "a container"
    if not record.host:
        return f"it is held for the next container called {record.container}"
    return f"{'held for' if record.kind == 'held' else 'in use by'} {whom} on {record.host}"
