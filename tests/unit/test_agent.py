"""The agent's threads, without an engine."""

from __future__ import annotations

import threading
from typing import cast
from unittest.mock import Mock

import pytest

from qnet import schema
from qnet.settings import Agent as Policy
from qnet.settings import Host, Settings
from qnet.store.base import Delete, Txn
from scheduler.agent.dockerd import Dockerd
from scheduler.agent.register import Registration
from scheduler.agent.service import Agent
from tests.store.memory import MemoryStore

SOON = 10.0  # seconds


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError()])
def test_an_agent_that_cannot_write_its_state_goes_on(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    monkeypatch.setattr("scheduler.agent.service.AGAIN", 0.01)
    compared = threading.Event()
    publisher = Mock()
    publisher.compare.side_effect = [error, None]

    def tell() -> None:
        if publisher.compare.call_count:
            compared.set()

    registration = Mock()
    registration.tell.side_effect = tell
    agent = Agent(Mock(), registration, publisher, Mock(), Mock(), Policy(), "host1")
    thread = threading.Thread(target=agent._look, daemon=True)
    thread.start()
    went_on = compared.wait(SOON)
    agent.stop()
    thread.join(SOON)
    assert went_on


class Engine:
    """What an agent asks of a host's engine."""

    def info(self) -> dict[str, object]:
        return {"NCPU": 2, "MemTotal": 4 << 30, "ServerVersion": "28.5.2", "ApiVersion": "1.48", "OSType": "linux"}

    def networks(self) -> list[dict[str, object]]:
        return []

    def volumes(self) -> list[str]:
        return []


def test_a_host_tells_an_etcd_that_has_lost_all_of_itself_at_once() -> None:
    store = MemoryStore()
    told = Registration(store, Settings(host=Host(name="host1")), cast(Dockerd, Engine()), dict, "")
    told.keeper.start()
    try:
        told.tell()
        before = {kv.key: kv.value for kv in store.range(schema.PLACEMENT).kvs}
        assert [key.split("/")[-2:] for key in before] == [["alive", "host1"], ["machines", "host1"]]
        store.txn(Txn(success=(Delete(schema.PLACEMENT, whole_prefix=True),)))
        told._leased(store.grant(60))  # as the keeper does whose lease is gone
        assert {kv.key: kv.value for kv in store.range(schema.PLACEMENT).kvs} == before
    finally:
        told.keeper.close()
