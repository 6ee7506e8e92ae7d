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
from scheduler.agent.networks import ClusterNetworks
from scheduler.agent.register import Registration
from scheduler.agent.service import Agent
from scheduler.model import Network
from scheduler.translate import ID
from scheduler.view import NETWORKS, key
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

    def volumes(self) -> list[str]:
        return []


def test_a_host_tells_an_etcd_that_has_lost_all_of_itself_at_once() -> None:
    store = MemoryStore()
    told = Registration(store, Settings(host=Host(name="host1")), cast(Dockerd, Engine()), list, dict, "")
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


class Networks:
    """The networks of a host's engine."""

    def __init__(self, *there: tuple[str, str]) -> None:
        self.there = [{"Name": name, "Id": f"here-{name}", "Labels": {ID: id_} if id_ else {}} for name, id_ in there]

    def networks(self) -> list[dict[str, object]]:
        return list(self.there)

    def create_network(self, network: Network) -> None:
        self.there.append({"Name": network.name, "Id": f"here-{network.id}", "Labels": {ID: network.id}})

    def remove_network(self, network: str) -> None:
        self.there = [entry for entry in self.there if entry["Id"] != network]


@pytest.mark.parametrize(
    ("there", "told", "said"),
    [
        ([], {"web": "1"}, 0),
        ([("bridge", "")], {"bridge": "", "web": "1"}, 0),
        ([("web", "1")], {"web": "1"}, 0),
        ([("web", "")], {}, 1),
        ([("web", ""), ("web", "1")], {"web": "1"}, 0),  # an engine may have two of a name
        ([("new", "2")], {"new": "2", "web": "1"}, 0),  # the cluster has it in a moment
    ],
)
def test_a_hosts_own_network_is_not_the_clusters_of_that_name(
    caplog: pytest.LogCaptureFixture, there: list[tuple[str, str]], told: dict[str, str], said: int
) -> None:
    store, engine = MemoryStore(), Networks(*there)
    web = Network(name="web", id="1", since="")
    store.put(key(NETWORKS, "web"), schema.encode(web))
    agent = ClusterNetworks(store, cast(Dockerd, engine), dict, lambda: None)
    try:
        agent.start()
        agent.compare()
        agent.compare()
        found = agent.told()
        assert {str(entry["Name"]): entry["Labels"].get(ID, "") for entry in found} == told
        assert caplog.text.count("web is not here: this host has one of its own of that name") == said
        engine.remove_network("here-web")
        agent.compare()
        assert {"web"} <= {entry["Name"] for entry in agent.told()}
    finally:
        agent.close()
        store.close()
