"""A host name belongs to one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.hostname import HostName
from qnet import schema
from qnet.errors import Conflict
from tests.store.memory import MemoryStore


def name(store: MemoryStore, folder: Path) -> HostName:
    folder.mkdir(exist_ok=True)
    return HostName(store, "host1", folder, lambda: "2026-01-01")


def test_same_machine_may_claim_again(tmp_path: Path) -> None:
    store = MemoryStore()
    name(store, tmp_path / "one").check()
    name(store, tmp_path / "one").claim()
    store.close()


def test_second_machine_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    name(store, tmp_path / "one").check()
    with pytest.raises(
        Conflict, match=r"host name host1 belongs to another machine since 2026-01-01.*qnet host forget host1"
    ):
        name(store, tmp_path / "two").check()
    store.close()


def test_a_machine_that_lost_its_name_notices(tmp_path: Path) -> None:
    store = MemoryStore()
    first = name(store, tmp_path / "one")
    first.check()
    store.delete(schema.host_key("host1"))
    name(store, tmp_path / "two").check()
    with pytest.raises(Conflict):
        first.claim()
    with pytest.raises(Conflict):
        first.check()
    store.close()
