"""The IPAM service in this process, composed as `plugins.compose` does it, called by many threads."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from plugins.hostname import HostName
from plugins.ipam.holds import Holds
from plugins.ipam.journal import Journal
from plugins.ipam.repository import Repository
from plugins.ipam.service import Service
from plugins.ipam.uses import Carving, Uses
from qnet import schema
from qnet.addresses.model import parse_subnet
from qnet.clock import now
from qnet.engine import Engine
from qnet.store.commit import GroupCommit
from qnet.store.etcd import EtcdStore
from qnet.tenants import Tenants
from tests.bench import records, threads


class Nobody:
    """No network asks who has an address."""

    def answers(self, tenant: str, subnet: str, address: str, besides: str) -> str:
        return ""


class InProcess:
    """One host's service. Orders: `open` a pool, `run` requests in it, `clear` what they took, `settle`."""

    def __init__(self, number: int, endpoint: str, threads: int, **_: Any) -> None:
        host, rng = f"bench{number}", random.Random()
        self._store = EtcdStore((endpoint,))
        self._repository = Repository(self._store, GroupCommit(self._store), host, 60, rng)
        uses = Uses(self._repository, Tenants(self._store, now), Carving({}, 24, 64), lambda: (), now, rng)
        holds = Holds(self._repository, Engine("/nowhere", 1.0), now, lambda: None)
        self._state = tempfile.TemporaryDirectory()
        state = Path(self._state.name)
        claim_name = HostName(self._store, host, state, now).check
        self._service = Service(self._repository, uses, holds, Journal(state / "journal"), claim_name, now, Nobody())
        self._threads = threads
        self._given: list[str] = []

    def order(self, do: str, pool: str, seconds: float = 0.0, calls: int = 0, **_: Any) -> dict[str, Any]:
        """One of `open`, `run`, `clear`, `settle`."""
        if do == "open":
            self._service.request_pool("engine", pool, "", {"tenant": records.TENANT}, False)
            self._repository.open(records.TENANT, parse_subnet(pool))
            return {}
        if do == "clear":
            return self._clear(pool)
        if do == "settle":
            return self._settle(pool)
        given, request = self._given, self._service.request_address
        pool_id = f"{records.TENANT}/{pool}"

        def ask(_thread: int, _turn: int) -> None:
            given.append(request("engine", pool_id, ""))

        work = threads.run(ask, self._threads, seconds, calls)
        if len(set(given)) != len(given):
            raise RuntimeError("an address was handed out twice")
        return {"calls": work.calls, "seconds": work.seconds}

    def _clear(self, pool: str) -> dict[str, Any]:
        """Delete the records of the last run."""
        keys = [schema.address_key(records.TENANT, pool, text.partition("/")[0]) for text in self._given]
        records.clear(self._store, keys)
        self._given.clear()
        return {}

    def _settle(self, pool: str) -> dict[str, Any]:
        """Wait until this process has seen what all of them have deleted."""
        opened = self._repository.open(records.TENANT, parse_subnet(pool))
        deadline = time.monotonic() + 20
        while len(opened.cache) != self._store.count(opened.prefix):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the copy of {pool} does not become what the store has")
            time.sleep(0.02)
        return {}
