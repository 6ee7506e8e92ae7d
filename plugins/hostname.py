"""One machine for each host name: two that act under one name would release each other's addresses."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from qnet import schema
from qnet.errors import Conflict
from qnet.schema import HostRecord
from qnet.store.base import Get, Put, Store, Txn, absent


class HostName:
    """This machine's claim on its name in the cluster."""

    def __init__(self, store: Store, name: str, state_dir: Path, now: Callable[[], str]) -> None:
        self._store = store
        self._name = name
        self._file = state_dir / "identity"
        self._now = now
        self._claimed = False

    def check(self) -> None:
        """Claim the name, unless that was done. Raises as `claim`."""
        if not self._claimed:
            self.claim()

    def claim(self) -> None:
        """Claim the name, or find that it is still this machine's.

        Raises:
            Conflict: another machine has it.
            Unavailable: the store cannot be reached.
        """
        self._claimed = False
        identity, key = self._identity(), schema.host_key(self._name)
        record = HostRecord(name=self._name, identity=identity, since=self._now())
        claim = Txn((absent(key),), (Put(key, schema.encode(record)),), (Get(key),))
        result = self._store.txn(claim, repeatable=True)
        found = None if result.succeeded else result.results[0]
        if isinstance(found, tuple) and found:
            other = schema.decode(found[0].value, HostRecord, key)
            if other.identity != identity:
                raise Conflict(
                    f"host name {self._name} belongs to another machine since {other.since}: give this one another "
                    f"name ([host] name in the settings), or, if that machine is gone, type: "
                    f"qnet host forget {self._name}"
                )
        self._claimed = True

    def _identity(self) -> str:
        """A number drawn once for this machine's state."""
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_suffix(".new")
            with fresh.open("w") as out:
                out.write(secrets.token_hex(16))
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self._file)
        return self._file.read_text().strip()
