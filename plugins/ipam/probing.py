"""Addresses that some device has which qnet does not manage: asked for before they are given out, then quarantined.

An address has its record before it is asked for, so nobody else takes it meanwhile, and no lock is held.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from plugins.ipam.repository import Repository
from qnet import metrics
from qnet.addresses.model import IPAddress, PoolId, mac_of
from qnet.addresses.openpool import OpenPool, Stored
from qnet.addresses.records import describe
from qnet.errors import Conflict
from qnet.schema import AddressRecord

logger = logging.getLogger(__name__)


class Prober(Protocol):
    """What address management needs of segments (`plugins.network.probe.Prober`)."""

    def answers(self, tenant: str, subnet: str, address: str, besides: str) -> str:
        """Who has an address, but for the MAC address `besides`; empty: nobody, or nobody wants to know."""


class Probing:
    """Asks for addresses that this host has just taken. `give_back` is `Service.release_address`."""

    def __init__(
        self, repository: Repository, prober: Prober, give_back: Callable[[str, str], None], now: Callable[[], str]
    ) -> None:
        self._repository = repository
        self._prober = prober
        self._give_back = give_back
        self._now = now

    def is_free(self, opened: OpenPool, taken: Stored, *, was_held: bool) -> bool:
        """Whether nobody answers for an address. If somebody does, it is quarantined.

        Args:
            was_held: it comes back to its container, whose own answer does not count.

        Raises:
            Conflict: its record changed meanwhile.
            Unavailable: it could not be asked for, and was given back.
        """
        return self._quarantined(opened, taken, was_held) is None

    def check(self, opened: OpenPool, taken: Stored, *, was_held: bool) -> IPAddress:
        """As `is_free`, of an address that was asked for by itself: it is returned. Raises Conflict, Unavailable."""
        found = self._quarantined(opened, taken, was_held)
        if found is not None:
            raise refusal(opened, taken.address, found)
        return taken.address

    def _quarantined(self, opened: OpenPool, taken: Stored, was_held: bool) -> AddressRecord | None:
        """The record that an address has now, if somebody answers for it."""
        tenant, address = opened.tenant, taken.address
        with ExitStack() as undo:
            undo.callback(self._give_back, str(PoolId(tenant, opened.subnet)), str(address))
            besides = mac_of(tenant, address) if was_held else ""
            found = self._prober.answers(tenant, str(opened.subnet), str(address), besides)
            undo.pop_all()
        if not found:
            return None
        now = self._now()
        record = AddressRecord(
            kind="quarantine",
            host=self._repository.host,
            since=now,
            claim=secrets.token_hex(8),
            note=f"answered by {found} at {now}",
        )
        self._repository.replace(opened, taken, record)
        metrics.QUARANTINED.inc()
        logger.warning("address %s of pool %s of tenant %s: %s", address, opened.subnet, tenant, describe(record))
        return record


def refusal(opened: OpenPool, address: IPAddress, record: AddressRecord) -> Conflict:
    """What who asks for an address is told that has a record."""
    todo = f"; when that device is gone: qnet address release {address} --tenant {opened.tenant}"
    return Conflict(
        f"address {address} of pool {opened.subnet} of tenant {opened.tenant} is taken: {describe(record)}"
        f"{todo if record.kind == 'quarantine' else ''}"
    )
