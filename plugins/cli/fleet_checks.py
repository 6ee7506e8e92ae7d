"""Checks of the fleet: every host that containers are placed on, the way to its engine, and who places."""

from __future__ import annotations

import http.client
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path

import msgspec

from plugins.cli.health import Finding, Level
from plugins.cli.machines import ALIVE, MACHINES, NETWORKS, ORDERS, REPLICAS, Machine, Network
from plugins.cli.unixhttp import reason
from qnet import schema
from qnet.certificates import client_context
from qnet.listen import parse_listen
from qnet.settings import Scheduler
from qnet.store.base import KeyValue, Store

ANSWER = 2.0  # seconds that an agent may take to connect, and to answer
SKEW = 3.0  # seconds: an answer tells the time to the second
AT_ONCE = 64
TIME = "have every host keep the time: apt install chrony"


class Orders(msgspec.Struct, frozen=True):
    """What an operator says of a host."""

    state: str = "ready"


def hosts(store: Store, mine: str) -> Iterator[Finding]:
    """How every host is, and whether all have the same qnet. `mine`: this one's name."""
    found, alive = _hosts(store), _below(store, ALIVE)
    if not found:
        yield Finding("ok", "no host is registered: placement is not used")
        return
    orders = {name: schema.decode(kv.value, Orders, kv.key) for name, kv in _below(store, ORDERS).items()}
    versions: defaultdict[str, list[str]] = defaultdict(list)
    for name, host in sorted(found.items()):
        yield _host(host, name in alive, orders.get(name, Orders()).state == "drain", name == mine)
        if name in alive:
            versions[host.qnet or "unknown"].append(name)
    if mine not in found:
        yield Finding("warn", f"this host, {mine}, is not registered", "start its agent (systemctl start qnet-agent)")
    if len(versions) > 1:
        what = ", ".join(f"{version} on {_some(names)}" for version, names in sorted(versions.items()))
        todo = "two adjacent releases run together; finish the upgrade"
        yield Finding("warn", f"hosts have different versions of qnet: {what}", todo)


def networks(store: Store) -> Iterator[Finding]:
    """Which hosts lack a network of the cluster that they should have."""
    alive = _below(store, ALIVE)
    up = {name: host for name, host in sorted(_hosts(store).items()) if name in alive}
    for where, kv in _below(store, NETWORKS).items():
        network = schema.decode(kv.value, Network, where)
        parent = network.options.get("parent")
        able = [name for name, host in up.items() if not parent or parent in host.parents]
        lack = [name for name in able if network.name not in up[name].networks]
        if lack:
            todo = "their agents' logs say why; one of a host's own of that name must go (docker network rm ID there)"
            yield Finding("warn", f"network {network.name} of the cluster is not on {_some(lack)}", todo)


def agents(store: Store, config: Scheduler) -> Iterator[Finding]:
    """Whether each agent that is up is reached from here, and what time it is there. Raises OSError."""
    alive = _below(store, ALIVE)
    asked = [host for name, host in sorted(_hosts(store).items()) if name in alive and host.url]
    if not asked:
        return
    if not Path(config.cert).exists():
        yield Finding("ok", f"agents are not asked: only who places reaches them, and {config.cert} is not there")
        return
    context = client_context(config.ca, config.cert, config.key)
    with ThreadPoolExecutor(min(len(asked), AT_ONCE), thread_name_prefix="agents") as crew:
        yield from crew.map(lambda host: _agent(host, context), asked)


def replicas(store: Store) -> Iterator[Finding]:
    """How many processes place, and where."""
    found = Counter(name.rpartition("-")[0] for name in _below(store, REPLICAS))
    if found:
        where = ", ".join(f"{number} on {host}" for host, number in sorted(found.items()))
        yield Finding("ok", f"{found.total()} schedulers and fronts place containers: {where}")
    elif _below(store, MACHINES):
        todo = "systemctl start qnet-scheduler, or qnet-gateway, on at least one host"
        yield Finding("warn", "there are hosts, and nobody places containers on them", todo)


def _host(host: Machine, up: bool, drained: bool, mine: bool) -> Finding:
    what = f"host {host.name}: engine {host.engine or 'unknown'}, qnet {host.qnet or 'unknown'}, at {host.url}"
    if not up:
        level: Level = "fail" if mine else "warn"
        gone = "" if mine else f"; if it is gone for good: qnet host forget --force {host.name}"
        return Finding(level, f"{what}: down", f"systemctl start qnet-agent on it{gone}")
    if host.trouble:
        todo = f"type qnet doctor on {host.name}"
        return Finding("fail" if mine else "warn", f"{what}: trouble with {', '.join(host.trouble)}", todo)
    return Finding("ok", f"{what}: up{', drained' if drained else ''}")


def _agent(host: Machine, context: ssl.SSLContext) -> Finding:
    name, port = parse_listen(host.url)
    connection = http.client.HTTPSConnection(name, port, timeout=ANSWER, context=context)
    began, wall = time.monotonic(), time.time()
    try:
        connection.request("GET", "/_ping")
        with connection.getresponse() as answer:
            taken, there = time.monotonic() - began, answer.headers["Date"]
    except (OSError, http.client.HTTPException) as error:
        todo = "see its log (journalctl -u qnet-agent), the firewall between, [agent] address and its certificate"
        return Finding("fail", f"agent of {host.name} at {host.url}: {reason(error)}", todo)
    finally:
        connection.close()
    what = f"agent of {host.name} answers in {taken * 1000:.0f} ms"
    ahead = parsedate_to_datetime(there).timestamp() - wall - taken / 2 if there else 0.0
    if abs(ahead) > SKEW:
        way = "ahead of" if ahead > 0 else "behind"
        return Finding("warn", f"{what}; its clock is {abs(ahead):.0f} s {way} this host's", TIME)
    return Finding("ok", what)


def _hosts(store: Store) -> dict[str, Machine]:
    return {name: schema.decode(kv.value, Machine, kv.key) for name, kv in _below(store, MACHINES).items()}


def _below(store: Store, prefix: str) -> Mapping[str, KeyValue]:
    return {kv.key.removeprefix(prefix): kv for kv in store.range(prefix).kvs}


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
