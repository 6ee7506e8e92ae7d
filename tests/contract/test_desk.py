"""Placements decided by several processes at once, on both stores: nothing is given twice, nothing free is refused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from qnet import schema
from qnet.errors import Ambiguous, Conflict, Exhausted, QnetError, Unavailable
from qnet.schema import AddressRecord, PoolRecord, TenantRecord
from qnet.store.base import Delete, Store, Txn, TxnResult
from qnet.store.commit import GroupCommit
from scheduler import addresses as taking
from scheduler.addresses import Addresses
from scheduler.commit import Desk
from scheduler.model import Container, Machine, Net, Orders, Request
from scheduler.rules import Spread
from scheduler.view import ALIVE, MACHINES, ORDERS, View, key

REPLICAS, CLIENTS = 3, 60


class Replica:
    """A process that decides: its own view, its own random numbers."""

    def __init__(self, store: Store, number: int) -> None:
        self.view = View(store)
        self.view.start()
        self.addresses = Addresses(store, 1, lambda: "", Random(number))
        self.desk = Desk(store, GroupCommit(store), self.view, self.addresses, lambda: "", Random(number), f"r{number}")


@pytest.fixture
def replicas(store: Store) -> Iterator[list[Replica]]:
    empty(store)
    made = [Replica(store, number) for number in range(REPLICAS)]
    yield made
    for one in made:
        one.view.close()
        one.addresses.close()
    empty(store)  # other tests use the same etcd


def empty(store: Store) -> None:
    for prefix in (schema.PLACEMENT, schema.CONTENTS, schema.POOLS, schema.TENANTS):
        store.txn(Txn(success=(Delete(prefix, whole_prefix=True),)))


def register(store: Store, count: int, **fields: Any) -> None:
    for number in range(count):
        name = f"h{number}"
        fields = {"cpus": 4000, "memory": 4 << 30} | fields
        store.put(key(MACHINES, name), schema.encode(Machine(name=name, **fields)))
        store.put(key(ALIVE, name), b"")


def asked(replicas: list[Replica], request: Callable[[int], Request], clients: int = CLIENTS) -> list[Any]:
    """What clients get that ask at the same moment, each one of the replicas; a container or an error."""
    gate = threading.Barrier(clients)

    def one(number: int) -> Any:
        gate.wait(20)
        try:
            return replicas[number % REPLICAS].desk.place(request(number))
        except QnetError as error:
            return error

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, range(clients)))


def stored(store: Store) -> list[Container]:
    found = store.range(schema.PLACEMENT + "containers/").kvs
    return [schema.decode(kv.value, Container, kv.key) for kv in found]


def agree(replicas: list[Replica], store: Store) -> None:
    """Every view is what the store says."""
    for one in replicas:
        one.view.catch_up()
        assert sorted(c.claim for c in one.view.containers()) == sorted(c.claim for c in stored(store))


def test_the_last_resources_are_given_once_and_all_of_them(store: Store, replicas: list[Replica]) -> None:
    register(store, 5)  # room for 20 of 1 CPU
    got = asked(replicas, lambda number: Request(name=f"c{number}", cpus=1000))
    made = [one for one in got if isinstance(one, Container)]
    assert len(made) == 20
    assert Counter(one.host for one in made) == {f"h{n}": 4 for n in range(5)}
    assert all(isinstance(one, Exhausted) for one in got if one not in made)
    assert sorted(c.name for c in stored(store)) == sorted(c.name for c in made)
    agree(replicas, store)


def test_one_name_is_given_once(store: Store, replicas: list[Replica]) -> None:
    register(store, 5)
    got = asked(replicas, lambda number: Request(name="web"))
    (made,) = [one for one in got if isinstance(one, Container)]
    assert {type(one) for one in got} == {Container, Conflict}
    assert "container name web is in use" in str(next(one for one in got if one is not made))
    agree(replicas, store)


def test_one_port_of_each_host_is_given_once(store: Store, replicas: list[Replica]) -> None:
    register(store, 7)
    got = asked(replicas, lambda number: Request(name=f"c{number}", ports=(("tcp", 80),)))
    hosts = [one.host for one in got if isinstance(one, Container)]
    assert sorted(hosts) == sorted({f"h{n}" for n in range(7)})
    assert "7 have port 80/tcp taken" in str(next(one for one in got if isinstance(one, Exhausted)))


def test_no_more_of_a_group_than_allowed_where_all_decide_on_other_hosts(store: Store, replicas: list[Replica]) -> None:
    """What is counted over several hosts is not what one host's ledger guards."""
    for number in range(6):
        machine = Machine(name=f"h{number}", cpus=4000, memory=4 << 30, labels={"rack": f"r{number % 2}"})
        store.put(key(MACHINES, machine.name), schema.encode(machine))
        store.put(key(ALIVE, machine.name), b"")
    got = asked(replicas, lambda number: Request(name=f"c{number}", group="g", spreads=(Spread("rack", 2),)), 12)
    made = [one for one in got if isinstance(one, Container)]
    racks = Counter(int(one.host[1:]) % 2 for one in made)
    assert racks == {0: 2, 1: 2}


def test_what_is_taken_back_is_free_for_everybody(store: Store, replicas: list[Replica]) -> None:
    register(store, 1)
    first = replicas[0].desk.place(Request(name="a", cpus=4000))
    with pytest.raises(Exhausted):
        replicas[1].desk.place(Request(name="b", cpus=4000))
    replicas[2].desk.remove(first)
    replicas[2].desk.remove(first)
    again = replicas[1].desk.place(Request(name="a", cpus=4000))
    replicas[0].desk.remove(first)  # of another time
    assert stored(store) == [again]


def test_a_drained_host_and_one_whose_agent_is_gone_take_nothing(store: Store, replicas: list[Replica]) -> None:
    register(store, 2)
    store.put(key(ORDERS, "h0"), schema.encode(Orders(state="drain")))
    assert replicas[0].desk.place(Request(name="a")).host == "h1"
    store.delete(key(ALIVE, "h1"))
    with pytest.raises(Exhausted, match="no host: 1 drained"):
        replicas[1].desk.place(Request(name="b"))
    store.put(key(ORDERS, "h0"), schema.encode(Orders()))
    assert replicas[1].desk.place(Request(name="b")).host == "h0"


class Deaf:
    """A store whose answers to transactions are lost, after they took effect or before."""

    def __init__(self, store: Store, effect: bool) -> None:
        self.store = store
        self.effect = effect
        self.times = 1

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        if self.times and txn.compares:
            self.times -= 1
            if self.effect:
                self.store.txn(txn, repeatable=repeatable)
            raise Ambiguous("no answer; the request may have taken effect")
        return self.store.txn(txn, repeatable=repeatable)


@pytest.mark.parametrize("effect", [True, False])
def test_an_answer_that_is_lost_places_once(store: Store, replicas: list[Replica], effect: bool) -> None:
    register(store, 1)
    view = replicas[0].view
    view.catch_up()
    desk = Desk(store, Deaf(store, effect), view, replicas[0].addresses, lambda: "", Random(0))
    made = desk.place(Request(name="a", cpus=1000))
    assert stored(store) == [made]
    with pytest.raises(Conflict):
        desk.place(Request(name="a", cpus=1000))
    agree(replicas, store)


def test_without_the_store_nothing_is_placed(store: Store, replicas: list[Replica]) -> None:
    register(store, 1)

    class Away:
        def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
            raise Unavailable("etcd is away")

    view = replicas[0].view
    view.catch_up()
    with pytest.raises(Unavailable, match="etcd is away"):
        Desk(store, Away(), view, replicas[0].addresses, lambda: "", Random(0)).place(Request(name="a"))
    assert stored(store) == []
    assert replicas[0].desk.place(Request(name="a")).host == "h0"


# -- addresses and limits ----------------------------------------------------------------------------------------

POOL = "10.77.0.0/28"
NETS = {"web": Net("default", "qnet", (f"default/{POOL}",))}


def pool(store: Store) -> None:
    """Hosts with network `web`, whose pool has fourteen addresses."""
    record = PoolRecord(tenant="default", subnet=POOL, since="")
    store.put(schema.pool_key("default", POOL), schema.encode(record))
    register(store, 5, cpus=100_000, networks=NETS)


def has(made: Iterable[Any]) -> list[str]:
    return [kept.address for one in made if isinstance(one, Container) for kept in one.addresses["web"]]


def held(store: Store) -> dict[str, AddressRecord]:
    prefix = schema.address_key("default", POOL)
    return {kv.key.removeprefix(prefix): schema.decode(kv.value, AddressRecord) for kv in store.range(prefix).kvs}


def test_the_last_addresses_are_given_once_and_all_of_them(
    store: Store, replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "PATIENCE", 60)
    pool(store)
    got = asked(replicas, lambda number: Request(name=f"c{number}", wanted={"web": "auto"}))
    assert len(has(got)) == len(set(has(got))) == 14
    assert {str(one) for one in got if isinstance(one, QnetError)} == {
        f"no address: pool {POOL} of tenant default is full"
    }
    assert {one.container: address for address, one in held(store).items()} == {
        one.name: one.addresses["web"][0].address for one in got if isinstance(one, Container)
    }


def test_an_address_that_all_want_is_given_once(store: Store, replicas: list[Replica]) -> None:
    pool(store)
    got = asked(replicas, lambda number: Request(name=f"c{number}", wanted={"web": "10.77.0.9"}), 30)
    assert has(got) == ["10.77.0.9"]
    assert sum(isinstance(one, Conflict) and "is taken: held for container c" in str(one) for one in got) == 29


def test_an_address_held_for_a_name_goes_to_no_other(store: Store, replicas: list[Replica]) -> None:
    pool(store)
    first = replicas[0].desk.place(Request(name="db", wanted={"web": "auto"}, hold=60))
    replicas[1].desk.remove(first)
    assert len(has(asked(replicas, lambda number: Request(name=f"c{number}", wanted={"web": "auto"})))) == 13
    got = asked(replicas, lambda number: Request(name="db", wanted={"web": "auto"}, hold=60), 12)
    assert has(got) == has([first])
    assert len(held(store)) == 14


def test_an_address_that_has_another_owner_now_is_not_given_back(store: Store, replicas: list[Replica]) -> None:
    pool(store)
    first = replicas[0].desk.place(Request(name="a1", wanted={"web": "10.77.0.9"}))
    where = schema.address_key("default", POOL, "10.77.0.9")
    other = AddressRecord(kind="endpoint", host="h9", since="", claim="x", container="other")
    store.put(where, schema.encode(other))
    replicas[0].desk.remove(first)
    assert stored(store) == []
    assert held(store) == {"10.77.0.9": other}


def test_a_tenants_limits_are_given_once_and_all_of_them(store: Store, replicas: list[Replica]) -> None:
    register(store, 5, cpus=100_000)
    record = TenantRecord(name="shop", since="", max_containers=7)
    store.put(schema.tenant_key("shop"), schema.encode(record))
    for one in replicas:
        while not one.view.limited("shop"):
            time.sleep(0.01)
    got = asked(replicas, lambda number: Request(name=f"c{number}", tenant="shop"), 30)
    assert sum(isinstance(one, Container) for one in got) == 7
    assert {str(one) for one in got if not isinstance(one, Container)} == {
        "tenant shop has 7 of the 7 containers that it may have: 1 more do not fit"
    }
