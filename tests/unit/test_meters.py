"""Values that are looked up for each scrape, and those that are counted where things happen."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import REGISTRY

import scheduler.agent.meter
import scheduler.meter
from plugins.ipam import meter
from plugins.ipam.journal import Entry
from plugins.network.meter import Meter
from plugins.network.model import Endpoint, Network
from plugins.network.repository import Registry, Repository
from qnet import schema
from qnet.authority import Authority
from qnet.errors import Unavailable
from qnet.metrics import Families, Gauges, Sample
from qnet.schema import AddressRecord
from qnet.settings import Agent, Etcd, Gateway, Scheduler, Settings
from qnet.store.base import Put, Txn, TxnResult
from qnet.store.commit import GroupCommit
from qnet.store.etcd import EtcdStore
from scheduler.agent.dockerd import Dockerd
from scheduler.model import Machine
from scheduler.view import MACHINES, key
from tests.store.memory import MemoryStore
from tests.unit.placement_world import World
from tests.unit.world import Clock, Container, Host

SUBNET = "10.77.0.0/29"  # six addresses
POOL = {"tenant": "default", "subnet": SUBNET}


def told(families: Callable[[], Families], samples: Iterable[Sample]) -> CollectorRegistry:
    """A registry that has them."""
    found, registry = list(samples), CollectorRegistry()
    registry.register(Gauges(families, lambda: found))
    return registry


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def pools(host: Host) -> dict[str, float | None]:
    registry = told(meter.families, meter.look(host.repository, host.journal, host.repair.conflicts))
    kinds = ("used_addresses", "held_addresses", "free_addresses", "conflicts")
    return {kind.partition("_")[0]: registry.get_sample_value(f"qnet_pool_{kind}", POOL) for kind in kinds}


@pytest.fixture
def host(tmp_path: Path) -> Iterable[Host]:
    made = Host("host1", MemoryStore(), Clock(), tmp_path)
    yield made
    made.close()


def test_a_pool_is_told_as_it_fills(host: Host) -> None:
    host.network("a", SUBNET)
    one = Container("c1", asked="10.77.0.3")
    host.start_container("a", one)
    host.start_container("a", Container("c2"))
    host.sync()
    assert pools(host) == {"used": 3, "held": 0, "free": 3, "conflicts": 0}  # the gateway is one
    host.stop_container(one)
    host.sync()
    assert pools(host) == {"used": 3, "held": 1, "free": 3, "conflicts": 0}


def test_what_is_excluded_is_not_free(host: Host) -> None:
    host.network("a", SUBNET, exclude="")
    record = schema.decode(host.store.get(schema.pool_key("default", SUBNET)).value, schema.PoolRecord)  # type: ignore[union-attr]
    host.close()
    fresh = schema.PoolRecord(tenant="default", subnet=SUBNET, since=record.since, exclude=("10.77.0.4-10.77.0.6",))
    host.store.put(schema.pool_key("default", SUBNET), schema.encode(fresh))
    host.start()
    host.start_container("a", Container("c1"))
    host.sync()
    assert pools(host) == {"used": 2, "held": 0, "free": 1, "conflicts": 0}


def test_a_conflict_is_told_while_it_lasts(host: Host) -> None:
    host.network("a", SUBNET)
    address = host.start_container("a", Container("c1"))
    where = schema.address_key("default", SUBNET, address)
    mine = host.store.get(where)
    assert mine is not None
    theirs = AddressRecord(kind="endpoint", host="host2", since="", claim="x", container="theirs")
    host.store.put(where, schema.encode(theirs))
    host.sync()
    host.repaired()
    assert pools(host)["conflicts"] == 1
    host.store.put(where, mine.value)
    host.sync()
    host.repaired()
    assert pools(host)["conflicts"] == 0


def test_the_journal_is_told(host: Host) -> None:
    def waiting() -> float | None:
        return told(meter.families, meter.look(host.repository, host.journal, ())).get_sample_value(
            "qnet_ipam_journal_entries"
        )

    assert waiting() == 0
    host.journal.add(Entry("default", SUBNET, "10.77.0.3", "x"))
    host.journal.add(Entry("default", SUBNET, "10.77.0.4", "y"))
    assert waiting() == 2
    host.journal.replay(lambda _: None)
    assert waiting() == 0


def test_endpoints_are_told_by_network(tmp_path: Path) -> None:
    repository, registry = Repository(tmp_path / "state", tmp_path / "run"), Registry(MemoryStore(), "host1")
    for network, tenant in (("n" * 64, "default"), ("m" * 64, "shop")):
        repository.networks.save(Network(id=network, tenant=tenant, mode="bridge", parent="eth1", subnets=()))
    repository.endpoints.save(Endpoint(id="e1", network="n" * 64, mac="", addresses=()))
    registry.names = {"n" * 64: "web"}
    filters = Mock(counters=dict)  # nothing is counted
    found = CollectorRegistry()
    found.register(Meter(repository, registry, filters, dict))
    assert found.get_sample_value("qnet_network_endpoints", {"network": "web", "tenant": "default"}) == 1
    assert found.get_sample_value("qnet_network_endpoints", {"network": "m" * 12, "tenant": "shop"}) == 0


def test_the_fleet_is_told(placed: World) -> None:
    placed.run("a1", container={"Image": "busybox", "Labels": {"qnet.constraint": "host==host1"}})
    placed.host("host4", alive=False)
    machine = Machine(name="host2", cpus=1000, memory=1 << 30, trouble=("the engine",))
    placed.store.put(key(MACHINES, "host2"), schema.encode(machine))
    placed.view.catch_up()
    found = told(scheduler.meter.families, scheduler.meter.look(placed.view))

    def value(name: str, **labels: str) -> float | None:
        return found.get_sample_value(name, labels)

    assert value("qnet_scheduler_ready") == 1
    assert [value("qnet_hosts", state=state) for state in ("ready", "drain", "down")] == [3, 0, 1]
    assert [value("qnet_host_up", host=f"host{number}") for number in (1, 4)] == [1, 0]
    assert value("qnet_host_trouble", host="host2", part="the engine") == 1
    assert value("qnet_host_trouble", host="host1", part="the engine") is None
    assert value("qnet_containers", host="host1", state="running") == 1


@pytest.fixture
def placed() -> Iterable[World]:
    made = World(MemoryStore())
    yield made
    made.close()


def test_etcd_that_does_not_answer_is_told() -> None:
    labels = {"call": "range", "error": "Unavailable"}
    errors, calls = counted("qnet_etcd_errors_total", **labels), counted("qnet_etcd_call_seconds_count", call="range")
    store = EtcdStore(["127.0.0.1:1"], timeout=0.2)
    with pytest.raises(Unavailable):
        store.get("x")
    store.close()
    assert counted("qnet_etcd_errors_total", **labels) == errors + 1
    assert counted("qnet_etcd_call_seconds_count", call="range") == calls + 1
    assert REGISTRY.get_sample_value("qnet_etcd_up") == 0


def test_how_many_travel_together_is_told() -> None:
    class Slow(MemoryStore):
        """The first request waits until the others stand in the queue."""

        def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
            if txn.success == (Put("k0", b""),):
                gate.wait(5)
            return super().txn(txn, repeatable=repeatable)

    gate, store = threading.Event(), Slow()
    commit = GroupCommit(store)
    requests, transactions = (counted(f"qnet_etcd_batch_transactions_{one}") for one in ("count", "sum"))
    threads = [threading.Thread(target=commit.txn, args=(Txn((), (Put(f"k{n}", b""),)),)) for n in range(4)]
    threads[0].start()
    while not commit._flights:
        pass
    for thread in threads[1:]:
        thread.start()
    while len(commit._queue) < 3:
        pass
    gate.set()
    for thread in threads:
        thread.join()
    assert counted("qnet_etcd_batch_transactions_sum") - transactions == 4
    assert counted("qnet_etcd_batch_transactions_count") - requests == 2


def test_an_engine_that_does_not_answer_is_told(tmp_path: Path) -> None:
    engine = Dockerd(str(tmp_path / "docker.sock"), 0.2)
    engine.up, engine._version = True, "1.41"
    calls = counted("qnet_agent_engine_call_seconds_count", call="networks")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "docker.sock"))
        listening.listen()
        with pytest.raises(Unavailable):
            engine.networks()
    samples = told(scheduler.agent.meter.families, scheduler.agent.meter.look(engine, ()))
    assert samples.get_sample_value("qnet_agent_engine_up") == 0
    assert counted("qnet_agent_engine_call_seconds_count", call="networks") == calls + 1


def test_the_certificates_that_the_settings_name_are_told_with_their_end(tmp_path: Path) -> None:
    authority, cert, bundle = Authority.create("demo", days=400), tmp_path / "host.pem", tmp_path / "ca.pem"
    own = authority.issue("host", "host1", days=20)
    cert.write_bytes(own.cert_pem)
    bundle.write_bytes(authority.pair.cert_pem + Authority.create("other", days=9).pair.cert_pem)
    (tmp_path / "damaged.pem").write_text("no certificate")
    config = Settings(
        etcd=Etcd(ca=str(bundle)),
        agent=Agent(ca=str(bundle), cert=str(cert)),
        scheduler=Scheduler(ca=str(bundle), cert=str(tmp_path / "damaged.pem")),
        gateway=Gateway(ca=str(bundle), cert=str(tmp_path / "missing.pem")),
    )
    files = scheduler.agent.meter.certificates(config)
    assert len(files) == 4
    engine = Dockerd(str(tmp_path / "docker.sock"), 0.2)
    found = told(scheduler.agent.meter.families, scheduler.agent.meter.look(engine, files))
    name = "qnet_certificate_end_timestamp_seconds"
    ends = {file: found.get_sample_value(name, {"file": file}) for file in files}
    first = datetime.now(UTC).timestamp() + 9 * 86400
    assert ends[str(cert)] == own.cert.not_valid_after_utc.timestamp()
    assert ends[str(bundle)] == pytest.approx(first, abs=60)
    assert [file for file, end in ends.items() if end is None] == [f"{tmp_path}/damaged.pem", f"{tmp_path}/missing.pem"]
