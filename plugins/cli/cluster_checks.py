"""Checks of what the hosts share: the store, this host's name in it, and addresses that two have."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from plugins.cli.health import Finding
from plugins.cli.inventory import Inventory
from plugins.ipam import compare
from plugins.ipam.compare import Action, Observed, Place
from qnet import schema
from qnet.addresses.records import describe
from qnet.engine import Engine, EngineView
from qnet.errors import Unavailable
from qnet.schema import AddressRecord, HostRecord, RestoreRecord
from qnet.settings import Settings
from qnet.store.base import EndpointStatus, Get, KeyValue, Store, Txn

SLOW = 0.05
ROUNDS = 5
GETS = 100
SHOWN = 5
OLDEST = (3, 4)
LARGE = 1_600_000_000  # bytes, of the 2 GiB that a member may have by default
CORRECT = "correct [etcd] endpoints in the settings"


def members(store: Store) -> list[Finding]:
    """Every member of etcd that the settings name, and whether they are one cluster."""
    members = store.status()
    found = [_member(one) for one in members]
    clusters = {one.cluster for one in members if not one.error}
    if len(clusters) > 1:
        where = ", ".join(f"{one.endpoint} of {one.cluster}" for one in members if not one.error)
        found.append(Finding("fail", f"etcd: the members are of {len(clusters)} clusters: {where}", CORRECT))
    return found


def round_trip(store: Store) -> Iterator[Finding]:
    """How long a read takes: the median of a few."""
    times = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        store.get(schema.ROOT)
        times.append(time.monotonic() - began)
    median = sorted(times)[ROUNDS // 2]
    what = f"etcd answers a read in {median * 1000:.1f} ms"
    if median < SLOW:
        yield Finding("ok", what)
    else:
        yield Finding(
            "warn", what, f"more than {SLOW * 1000:.0f} ms delays every start of a container: look at its disk"
        )


def host_name(store: Store, settings: Settings) -> Iterator[Finding]:
    """Whether the name under which this host acts is its own."""
    name, file = settings.host.name, Path(settings.host.state_dir) / "identity"
    kv = store.get(schema.host_key(name))
    if kv is None:
        yield Finding("ok", f"host name {name}: free; it is claimed with the first network")
        return
    record = schema.decode(kv.value, HostRecord, kv.key)
    if file.exists() and file.read_text().strip() == record.identity:
        yield Finding("ok", f"host name {name}: claimed by this machine since {record.since}")
        return
    yield Finding(
        "fail",
        f"host name {name}: claimed by another machine since {record.since}, or {file} was lost",
        f"give this machine another name ([host] name), or, if no other has it, type: qnet host forget {name}",
    )


def restoring(store: Store) -> Iterator[Finding]:
    """Whether a restore is at work, or has broken off."""
    kv = store.get(schema.RESTORE)
    if kv is not None:
        record = schema.decode(kv.value, RestoreRecord, kv.key)
        todo = f"if it has broken off, type it again: qnet restore FILE on {record.host}"
        yield Finding("fail", f"a restore is at work since {record.since}: no address is given out", todo)


def conflicts(store: Store, engine: Engine, host: str) -> Iterator[Finding]:
    """Addresses that this host's containers use, but that are recorded for others or not at all."""
    try:
        view = engine.view()
    except Unavailable:
        return  # the check of the engine says so
    wrong = _wrong(store, view, host)
    if wrong:
        # a container that stopped between the two questions made it look so: what is wrong is wrong twice
        again = _wrong(store, engine.view(), host)
        wrong = {place: again[place] for place in wrong if place in again}
    for place, action in wrong.items():
        where = f"address {place.address} of pool {place.subnet} of tenant {place.tenant}"
        container = action.owner.container.name if action.owner else "a container"
        if action.observed is None:
            todo = "repair claims it soon; if not, see the log of qnet-network"
            yield Finding("warn", f"{where}: container {container} has it without a record", todo)
        else:
            what = f"{where}: container {container} uses it here, but {describe(action.observed.record)}"
            yield Finding("fail", what, f"stop one of the two: docker stop {container}")
    if not wrong:
        yield Finding("ok", "every address that containers use here is recorded for this host")


def quarantine(store: Store) -> Iterator[Finding]:
    """Addresses that are not given out because some device answered for them."""
    inventory = Inventory(store)
    found = [
        f"{stored.address} of tenant {pool.tenant} ({stored.record.note})"
        for pool in inventory.pools()
        for stored in inventory.addresses(pool)
        if stored.record.kind == "quarantine"
    ]
    if found:
        more = ", …" if len(found) > SHOWN else ""
        todo = "qnet address release ADDRESS for a device that is gone; addresses of others are better excluded"
        yield Finding("warn", f"quarantined: {', '.join(found[:SHOWN])}{more}", todo)
    else:
        yield Finding("ok", "no address is quarantined")


def _member(member: EndpointStatus) -> Finding:
    what = f"etcd {member.endpoint}"
    if member.error:
        return Finding("fail", f"{what}: {member.error}", f"start it, or {CORRECT}")
    role, size = "leader" if member.leader else "follower", f"{member.db_size / 1e6:.1f} MB"
    what += f": version {member.version}, {role}, {size}, answers in {member.seconds * 1000:.0f} ms"
    if tuple(map(int, member.version.split(".")[:2])) < OLDEST:
        return Finding("fail", what, "qnet needs etcd 3.4 or newer: upgrade it")
    if any("NOSPACE" in trouble for trouble in member.troubles):
        return Finding("fail", f"{what}, full: it takes no writes", "etcdctl compact, defrag, then alarm disarm")
    if member.troubles:
        return Finding("fail", f"{what}, {'; '.join(member.troubles)}", "see its log, and how the other members are")
    if member.db_size > LARGE:
        return Finding("warn", what, "at its quota (2 GiB by default) it takes no writes: etcdctl compact, defrag")
    return Finding("ok", what)


def _wrong(store: Store, seen: EngineView, host: str) -> dict[Place, Action]:
    """What a comparison would do about endpoints without a record of this host, if it waited for nothing."""
    view = compare.by_address(seen)
    records = _records(store, view.live)
    sighted = dict.fromkeys(view.live, (0, 0.0))
    verdict = compare.compare(host, records, view, sighted, now=0.0, grace=0.0)
    return {act.place: act for act in verdict.actions if act.do in ("conflict", "claim") and act.place in view.live}


def _records(store: Store, places: Iterable[Place]) -> Mapping[Place, Observed]:
    by_key = {schema.address_key(one.tenant, str(one.subnet), str(one.address)): one for one in places}
    found = {}
    for kv in _read(store, iter(by_key)):
        found[by_key[kv.key]] = Observed(schema.decode(kv.value, AddressRecord, kv.key), kv.mod_revision)
    return found


def _read(store: Store, keys: Iterator[str]) -> Iterator[KeyValue]:
    while some := tuple(Get(key) for key in islice(keys, GETS)):
        for result in store.txn(Txn(success=some), repeatable=True).results:
            yield from result if isinstance(result, tuple) else ()
