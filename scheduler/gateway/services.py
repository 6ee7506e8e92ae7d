"""What every part of the front uses: who has what, how to ask engines, and how to have placement do something."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any, ParamSpec, TypeVar

import msgspec

from qnet import log, metrics
from qnet.errors import NotFound, QnetError, Unavailable
from qnet.tenants import DEFAULT
from scheduler.audit import Audit
from scheduler.callers import Caller
from scheduler.commit import Desk
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.upstream import Missing, Refused, Upstreams
from scheduler.known import Cluster
from scheduler.model import Container, Machine, Network, Request
from scheduler.networks import Networks
from scheduler.runs import Runs
from scheduler.view import View

logger = logging.getLogger(__name__)

HOST_LABEL = "qnet.host"
THREADS = 32
PROJECT, LOCAL = "com.docker.compose.project", "local"
PINS, PINNED = 4096, 600.0  # choices, and for how many seconds each is remembered
SEEN, LOOK = 5.0, 0.01  # seconds

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Services:
    """See the module. For one event loop; `work` takes what blocks to threads."""

    view: View
    desk: Desk
    runs: Runs
    networks: Networks
    known: Cluster
    upstreams: Upstreams
    audit: Audit
    random: Random
    pins: dict[tuple[str, ...], tuple[str, float]] = field(default_factory=dict)
    """Which host was chosen for a client's image or build, the latest last."""
    _undoing: set[asyncio.Task[None]] = field(default_factory=set)
    _crew: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="work"))

    async def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have a thread do something that waits for others."""
        call = log.carried(lambda: function(*args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._crew, call)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    # -- hosts -----------------------------------------------------------------------------------------------

    def hosts(self, caller: Caller) -> list[Machine]:
        """The hosts that are up and that a caller may use, by name."""
        self.view.check()
        may = (
            one for one in self.view.machines() if caller.operator or not one.tenants or caller.tenant in one.tenants
        )
        return sorted((one for one in may if one.state != "down"), key=lambda one: one.name)

    def any_host(self, caller: Caller) -> Machine:
        """One of them, the same as long as it is there: one that takes new work, if there is such a one."""
        found = self.hosts(caller)
        if not found:
            raise Unavailable("no host is up: see qnet host ls")
        return next((one for one in found if one.state == "ready" and not one.trouble), found[0])

    async def every(
        self,
        x: Exchange,
        method: str,
        target: str,
        hosts: Iterable[Machine] | None = None,
        *,
        whole: bool = False,
    ) -> dict[str, Any]:
        """What the engines of all hosts, or of some, answer to the same request, by the hosts' names. A host that does
        not answer is left out of what is read, but for what makes sense as a `whole` only, and never of a change.

        Raises:
            Refused, Unavailable: all engines refuse, or do not answer; or some, and none may be left out.
            ClientGone: nobody waits for the whole any more.
        """
        asked, whole = self.hosts(x.caller) if hosts is None else list(hosts), whole or method != "GET"
        asking = self.upstreams.each(asked, lambda host: self.upstreams.call(host, method, target))
        found, failed = await (x.watched(asking) if whole else asking)
        for name, error in failed.items():
            logger.warning("host %s: %s %s: %s", name, method, target.partition("?")[0], error)
        refused = [error for error in failed.values() if isinstance(error, Refused)]
        if not found and failed:
            raise refused[0] if refused else next(iter(failed.values()))
        if failed and whole:
            error = _partly(sorted(found), failed)
            if method != "GET":
                kind, _, did = x.path.strip("/").partition("/")
                self.note(
                    x, f"{kind.removesuffix('s')} {did}", where=", ".join(sorted(found)), result=f"refused: {error}"
                )
            raise error
        return dict(sorted(found.items()))

    async def choose(self, x: Exchange, what: str, **fields: Any) -> Machine:
        """A host for something that is no container. Raises Exhausted: none takes new work."""
        request = Request(name=what, tenant=x.caller.tenant or DEFAULT, **fields)
        decision = await self.work(self.view.decide, request, self.random, ())
        return self.view.machine(decision.host)

    async def choose_local(self, x: Exchange, what: str, labels: Mapping[str, str]) -> Machine:
        """A host for what only one host can have: beside the other such things of a client's process, or of its
        compose project, as containers may need several of them. Raises Exhausted."""
        project = labels.get(PROJECT)
        beside = {one.host for one in self.view.containers() if project and one.labels.get(PROJECT) == project}
        pinned = self.pinned(x.caller.who, x.caller.process, LOCAL)
        ready = {host.name: host for host in self.hosts(x.caller) if host.state == "ready"}
        host = ready.get(pinned) or next((ready[name] for name in sorted(beside) if name in ready), None)
        host = host or await self.choose(x, what)
        self.pin(x.caller.who, x.caller.process, LOCAL, host=host.name)
        return host

    async def until(self, known: Callable[[], bool]) -> None:
        """Wait until an agent has told of a change, for a while: the next request may need it."""
        deadline = asyncio.get_running_loop().time() + SEEN
        while not known() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK)

    def pin(self, *key: str, host: str) -> None:
        """Remember a choice for a while."""
        self.pins.pop(key, None)
        self.pins[key] = (host, asyncio.get_running_loop().time())
        while len(self.pins) > PINS:
            del self.pins[next(iter(self.pins))]

    def pinned(self, *key: str) -> str:
        """The host that was chosen; empty: none, or too long ago."""
        host, when = self.pins.get(key, ("", 0.0))
        return host if asyncio.get_running_loop().time() - when < PINNED else ""

    # -- containers ------------------------------------------------------------------------------------------

    async def container(self, x: Exchange, name: str) -> Container:
        """The caller's container of that name, id or beginning of an id, in the words of engines if there is none."""
        text = name.removeprefix("/")
        for last in (False, True):
            try:
                return self.runs.find(text, x.caller.tenant)
            except NotFound:
                if last:
                    break
                await self.work(self.view.catch_up)  # it may have been made elsewhere just now
        raise Missing(f"No such container: {name}")

    def owns(self, caller: Caller, id_: str) -> bool:
        """Whether a container of that id is the caller's."""
        return not caller.tenant or any(one.tenant == caller.tenant for one in self.view.by_id(id_))

    async def owner(self, x: Exchange, name: str) -> tuple[Container, Machine]:
        """The same, with its host. Raises Unavailable: that is down."""
        found = await self.container(x, name)
        return found, self.runs.up(found)

    def powers(self, caller: Caller) -> bool:
        """Whether a caller's containers may have power over their hosts."""
        return caller.operator or self.view.trusts(caller.tenant)

    def sees(self, caller: Caller, image: str) -> bool:
        """Whether a caller may use an image of that name or id."""
        return caller.operator or self.view.sees(caller.tenant, image)

    # -- networks --------------------------------------------------------------------------------------------

    def network(self, caller: Caller, name: str) -> Network | None:
        """The caller's network of the cluster of that name, id or beginning of an id."""
        found = self.view.network(name)
        if found is None and name:
            several = [one for one in self.view.networks() if one.id.startswith(name)]
            found = several[0] if len(several) == 1 else None
        return found if found is not None and caller.tenant in ("", found.tenant) else None

    def network_names(self, caller: Caller, asked: Iterable[str]) -> list[str]:
        """Networks of the cluster by their names: each engine has ids of its own."""
        found = [(name, self.network(caller, name)) for name in asked]
        return [network.name if network is not None else name for name, network in found]

    # -- changes ---------------------------------------------------------------------------------------------

    def note(self, x: Exchange, did: str, what: str = "", where: str = "", result: str = "done") -> None:
        """Write a change into the audit log."""
        self.audit.note(x.caller.who, did, what[:256], x.caller.tenant, where, result)

    def placed(self, x: Exchange, did: str, what: str, tenant: str, where: str, error: QnetError | None) -> None:
        """The same for a placement, which is counted too."""
        if error is None:
            metrics.PLACED.labels(tenant).inc()
        else:
            metrics.REFUSED.labels(type(error).__name__).inc()
        self.audit.note(x.caller.who, did, what[:256], tenant, where, f"refused: {error}" if error else "done")

    def close(self) -> None:
        """Begin nothing more."""
        self._crew.shutdown(wait=False, cancel_futures=True)
        self.upstreams.close()


def _partly(done: Iterable[str], failed: Mapping[str, QnetError]) -> QnetError:
    """Which hosts did not do what the others have done, and why."""
    whys = (str(why) if isinstance(why, Unavailable) else f"host {name}: {why}" for name, why in sorted(failed.items()))
    text = f"{'; '.join(whys)}; it went well on {', '.join(done)}"
    refused = [why for why in failed.values() if isinstance(why, Refused)]
    return Refused(refused[0].status, text) if len(refused) == len(failed) else Unavailable(text)


def late(hosts: Iterable[Machine], found: Mapping[str, Any]) -> list[str]:
    """A warning for each host that is left out of an answer."""
    return [f"{host.name}: it does not answer, and is left out" for host in hosts if host.name not in found]


def filters_of(x: Exchange) -> dict[str, list[str]]:
    """`?filters=`, in either of the forms that clients send. Raises Missing: it makes no sense."""
    text = x.request.parameter("filters")
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text)
        return {str(name): [str(value) for value in values] for name, values in found.items()}
    except (msgspec.MsgspecError, AttributeError, TypeError) as error:
        raise Missing(f"invalid filter: {text[:64]!r} is no JSON object of lists", 400) from error


def filters_text(filters: Mapping[str, Iterable[str]]) -> str:
    """The same as every engine takes it."""
    tables = {name: dict.fromkeys(values, True) for name, values in filters.items() if values}
    return msgspec.json.encode(tables).decode() if tables else ""


def take_hosts(filters: dict[str, list[str]], hosts: list[Machine]) -> list[Machine]:
    """The hosts that `label=qnet.host=NAME` leaves; engines do not know that label, so it is taken out."""
    ours = [value for value in filters.get("label", ()) if value.partition("=")[0] == HOST_LABEL]
    wanted = {value.partition("=")[2] for value in ours if "=" in value}
    if ours:
        filters["label"] = [value for value in filters["label"] if value not in ours]
    if not wanted:
        return hosts
    return [host for host in hosts if host.name in wanted]


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether `NAME` or `NAME=VALUE` of a filter is among labels."""
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def total(found: Mapping[str, Any], name: str) -> int:
    """The sum of a number that each host tells."""
    return sum(int(told.get(name) or 0) for told in found.values())


def labelled(entry: dict[str, Any], host: str) -> dict[str, Any]:
    """An object of an engine, which says its host."""
    entry["Labels"] = {**(entry.get("Labels") or {}), HOST_LABEL: host}
    return entry
