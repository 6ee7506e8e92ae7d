"""The placement service's REST API: what each call takes and answers. `GET /openapi.json` says the same to programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from qnet import metrics
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, QnetError, Unavailable
from qnet.tenants import DEFAULT, parse_tenant
from scheduler.ask import Wish
from scheduler.audit import Audit
from scheduler.engines import Engines, ImageMissing
from scheduler.feasible import said
from scheduler.hosts import HostChange, Hosts, HostView
from scheduler.images import PullAsked, pull
from scheduler.model import PLACED, Container, Port
from scheduler.networks import NetworkAsked, Networks, NetworkView
from scheduler.runs import Ran, Run, Runs
from scheduler.targets import Target, target
from scheduler.view import View
from scheduler.web import Call, Route, Stream

PULLS = ("missing", "always", "never")
TRUE = ("1", "true")
FALSE = ("", "0", "false")


class RunAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Containers to be run. `container` is the body of Docker's `POST /containers/create`; `networks` are on top of
    those that it names. `instances` above 1: each has its number behind the name. `pull`: missing, always or never.
    `auth`: the registry's credentials, as in Docker's X-Registry-Auth. `tenant`: for operators, whose it is."""

    container: dict[str, Any]
    name: str = ""
    networks: tuple[Wish, ...] = ()
    platform: str = ""
    instances: int = 1
    pull: str = "missing"
    auth: str = ""
    start: bool = True
    tenant: str = ""


class RunAnswer(msgspec.Struct, frozen=True):
    """What became of each instance, in the order of their numbers."""

    containers: tuple[Ran, ...]


class VerdictView(msgspec.Struct, frozen=True):
    """A host: why it cannot take the request, or how it scores: what for, the weight, a value from 0 to 1."""

    host: str
    suits: bool
    reasons: tuple[str, ...]
    score: float
    scores: tuple[tuple[str, float, float], ...]


class DryRun(msgspec.Struct, frozen=True):
    """Where a request would go: the best host of all now, none: no host can take it. All hosts, the best first."""

    host: str
    verdicts: tuple[VerdictView, ...]


class ContainerView(msgspec.Struct, frozen=True):
    """A container of the fleet. `state` is Docker's, or `placed`: it is being made. `addresses` by network."""

    name: str
    id: str
    host: str
    tenant: str
    image: str
    state: str
    exit: int
    addresses: Mapping[str, tuple[str, ...]]
    networks: tuple[str, ...]
    ports: tuple[Port, ...]
    volumes: tuple[str, ...]
    cpus: int
    memory: int
    labels: Mapping[str, str]
    placed: bool
    since: str
    changed: str


class TenantView(msgspec.Struct, frozen=True):
    """What a tenant has of the fleet, and may have (0: no limit). CPUs in thousandths, memory in bytes."""

    name: str
    containers: int
    max_containers: int
    cpus: int
    max_cpus: int
    memory: int
    max_memory: int


class Removed(msgspec.Struct, frozen=True):
    """What is gone; `containers`: how many went with it."""

    name: str
    host: str = ""
    containers: int = 0


class Health(msgspec.Struct, frozen=True):
    """Whether this replica follows the store, and for operators how much it knows."""

    ready: bool
    hosts: int = 0
    containers: int = 0


class Api:
    """The handlers: each takes a call apart, has it done, and notes what was changed."""

    def __init__(
        self, view: View, runs: Runs, hosts: Hosts, networks: Networks, audit: Audit, engines: Engines
    ) -> None:
        self._view = view
        self._runs = runs
        self._hosts = hosts
        self._networks = networks
        self._audit = audit
        self._engines = engines

    # -- containers ------------------------------------------------------------------------------------------

    def run(self, call: Call) -> RunAnswer:
        """Run one or several."""
        run = self._run(call)
        done = self._runs.run(run, lambda ran: self._ran(call, run, ran))
        if len(done) == 1 and done[0].error:
            raise KINDS.get(done[0].kind, QnetError)(done[0].error)
        return RunAnswer(tuple(done))

    def dry_run(self, call: Call) -> DryRun:
        """Where it would go."""
        verdicts = tuple(
            VerdictView(one.host, not one.misses, tuple(map(said, one.misses)), one.score, one.scores)
            for one in self._runs.explain(self._run(call))
            if call.caller.operator or not one.misses
        )
        return DryRun(next((one.host for one in verdicts if one.suits), ""), verdicts)

    def containers(self, call: Call) -> list[ContainerView]:
        """All, those that ended too if asked for."""
        every, host, tenant = _flag(call, "all"), call.query.get("host", ""), self._scope(call)
        self._view.check()
        found = [
            one
            for one in self._view.containers()
            if tenant in ("", one.tenant) and host in ("", one.host) and (every or one.running)
        ]
        return [_shown(one) for one in sorted(found, key=lambda one: one.name)]

    def container(self, call: Call) -> ContainerView:
        """One."""
        return _shown(self._runs.find(call.path["name"], call.caller.tenant))

    def remove(self, call: Call) -> Removed:
        """Remove one."""
        name, force, volumes = call.path["name"], _flag(call, "force"), _flag(call, "volumes")
        with _noted(self._audit, call, "remove", name):
            gone = self._runs.remove(name, call.caller.tenant, force=force, volumes=volumes)
        return Removed(gone.name, gone.host)

    def targets(self, call: Call) -> list[Target]:
        """What containers want Prometheus to fetch."""
        tenant = self._scope(call)
        self._view.check()
        hosts = {machine.name: machine.networks for machine in self._view.machines()}
        mine = (one for one in self._view.containers() if tenant in ("", one.tenant))
        found = (target(one, hosts.get(one.host, {})) for one in mine)
        return sorted((one for one in found if one is not None), key=lambda one: one.labels["container"])

    # -- hosts -----------------------------------------------------------------------------------------------

    def hosts(self, _: Call) -> list[HostView]:
        """All hosts."""
        self._view.check()
        return self._hosts.all()

    def host(self, call: Call) -> HostView:
        """One host."""
        return self._hosts.get(call.path["name"])

    def change_host(self, call: Call) -> HostView:
        """Drain, make ready, label."""
        change: HostChange = call.body
        with _noted(self._audit, call, f"host {change.state or 'label'}", call.path["name"]):
            return self._hosts.change(call.path["name"], change)

    def forget_host(self, call: Call) -> Removed:
        """Forget one that is gone."""
        with _noted(self._audit, call, "host forget", call.path["name"]):
            return Removed(call.path["name"], containers=self._hosts.forget(call.path["name"]))

    # -- networks, images, tenants ---------------------------------------------------------------------------

    def networks(self, call: Call) -> list[NetworkView]:
        """All networks of the cluster."""
        return self._networks.all(self._scope(call))

    def network(self, call: Call) -> NetworkView:
        """One network."""
        return self._networks.get(call.path["name"], call.caller.tenant)

    def create_network(self, call: Call) -> NetworkView:
        """Make a network on every host."""
        asked: NetworkAsked = call.body
        with _noted(self._audit, call, "network create", asked.name[:128]):
            return self._networks.create(asked, call.caller.tenant, operator=call.caller.operator)

    def remove_network(self, call: Call) -> Removed:
        """Remove a network from every host."""
        with _noted(self._audit, call, "network remove", call.path["name"]):
            self._networks.remove(call.path["name"], call.caller.tenant)
        return Removed(call.path["name"])

    def pull(self, call: Call) -> Stream:
        """Bring an image to hosts."""
        asked: PullAsked = call.body
        with _noted(self._audit, call, "image pull", asked.image[:128]):
            return Stream(iter(pull(self._view, self._engines, asked)))

    def tenants(self, call: Call) -> list[TenantView]:
        """What each tenant has of the fleet."""
        records = {one.name: one for one in self._view.tenants()}
        names = {call.caller.tenant} if call.caller.tenant else {DEFAULT, *records}
        found = []
        for name in sorted(names):
            taken, record = self._view.taken(name), records.get(name)
            limits = (record.max_containers, record.max_cpus, record.max_memory) if record else (0, 0, 0)
            found.append(TenantView(name, taken.running, limits[0], taken.cpus, limits[1], taken.memory, limits[2]))
        return found

    def health(self, call: Call) -> Health:
        """How this replica is."""
        if not call.caller.operator:
            return Health(self._view.ready)
        return Health(self._view.ready, len(self._view.machines()), len(self._view.containers()))

    # -- requests --------------------------------------------------------------------------------------------

    def _run(self, call: Call) -> Run:
        self._view.check()
        asked: RunAsked = call.body
        tenant = call.caller.tenant or asked.tenant or DEFAULT
        if asked.tenant not in ("", tenant):
            raise InvalidRequest(f"tenant {asked.tenant[:64]!r}: this certificate is of tenant {tenant}")
        if parse_tenant(tenant) != DEFAULT and self._view.tenant(tenant) is None:
            raise NotFound(f"tenant {tenant} does not exist: make it with qnet tenant create {tenant} --vlan auto")
        if asked.pull not in PULLS:
            raise InvalidRequest(f"pull {asked.pull[:32]!r}: {', '.join(PULLS)}")
        return Run(
            container=asked.container,
            name=asked.name,
            tenant=tenant,
            networks=asked.networks,
            platform=asked.platform,
            instances=asked.instances,
            pull=asked.pull,
            auth=asked.auth,
            start=asked.start,
            operator=call.caller.operator,
            powers=call.caller.operator or self._view.trusts(tenant),
        )

    def _ran(self, call: Call, run: Run, ran: Ran) -> None:
        if ran.error:
            metrics.REFUSED.labels(ran.kind).inc()
        else:
            metrics.PLACED.labels(run.tenant).inc()
        result = f"refused: {ran.error}" if ran.error else "done"
        self._audit.note(call.caller.who, "run", ran.name, run.tenant, ran.host, result)

    @staticmethod
    def _scope(call: Call) -> str:
        wanted = call.query.get("tenant", "")
        if call.caller.operator:
            return wanted
        if wanted not in ("", call.caller.tenant):
            raise InvalidRequest(f"tenant {wanted[:64]!r}: this certificate is of tenant {call.caller.tenant}")
        return call.caller.tenant

    def routes(self) -> list[Route]:
        """Every call."""
        tenant = {"tenant": "Only this tenant's."}
        return [
            Route("POST", "/v1/runs", "Run containers.", self.run, RunAnswer, RunAsked, status=201),
            Route("POST", "/v1/placements", "Where a run would go, and why.", self.dry_run, DryRun, RunAsked),
            Route(
                *("GET", "/v1/containers", "List containers.", self.containers, list[ContainerView]),
                query={"all": "1: those that do not run too.", "host": "Only this host's.", **tenant},
            ),
            Route("GET", "/v1/containers/{name}", "One container, by name or id.", self.container, ContainerView),
            Route(
                *("DELETE", "/v1/containers/{name}", "Remove a container.", self.remove, Removed),
                query={"force": "1: though it runs.", "volumes": "1: its anonymous volumes too."},
            ),
            Route(
                *("GET", "/v1/targets", "Containers' own metrics, for Prometheus' http_sd_configs.", self.targets),
                list[Target],
                query=tenant,
            ),
            Route("GET", "/v1/hosts", "List hosts.", self.hosts, list[HostView], operators=True),
            Route("GET", "/v1/hosts/{name}", "One host.", self.host, HostView, operators=True),
            Route(
                *("PATCH", "/v1/hosts/{name}", "Drain a host, make it ready, label it.", self.change_host, HostView),
                *(HostChange,),
                operators=True,
            ),
            Route(
                *("DELETE", "/v1/hosts/{name}", "Forget a host that is gone for good.", self.forget_host, Removed),
                operators=True,
            ),
            Route(
                "GET", "/v1/networks", "List the cluster's networks.", self.networks, list[NetworkView], query=tenant
            ),
            Route("GET", "/v1/networks/{name}", "One network.", self.network, NetworkView),
            Route(
                *("POST", "/v1/networks", "Make a network on every host.", self.create_network, NetworkView),
                *(NetworkAsked,),
                status=201,
            ),
            Route("DELETE", "/v1/networks/{name}", "Remove a network from every host.", self.remove_network, Removed),
            Route(
                *("POST", "/v1/images/pull", "Bring an image to hosts; one JSON object a line.", self.pull, None),
                *(PullAsked,),
                operators=True,
            ),
            Route("GET", "/v1/tenants", "What tenants have of the fleet.", self.tenants, list[TenantView]),
            Route("GET", "/v1/health", "Whether this replica follows the store.", self.health, Health),
        ]


KINDS: Mapping[str, type[QnetError]] = {
    kind.__name__: kind for kind in (InvalidRequest, NotFound, ImageMissing, Conflict, Exhausted, Unavailable)
}


@contextmanager
def _noted(audit: Audit, call: Call, did: str, what: str) -> Iterator[None]:
    """Note a change with its result."""
    result = "done"
    try:
        yield
    except BaseException as error:
        result = f"refused: {error}" if isinstance(error, QnetError) else f"failed: {type(error).__name__}"
        raise
    finally:
        audit.note(call.caller.who, did, what, call.caller.tenant, result=result)


def _flag(call: Call, name: str) -> bool:
    text = call.query.get(name, "").lower()
    if text not in (*TRUE, *FALSE):
        raise InvalidRequest(f"parameter {name}={text[:32]}: 1 or 0")
    return text in TRUE


def _shown(one: Container) -> ContainerView:
    return ContainerView(
        name=one.name,
        id=one.id,
        host=one.host,
        tenant=one.tenant,
        image=one.image,
        state=one.state or PLACED,
        exit=one.exit,
        addresses=one.reached,
        networks=one.networks,
        ports=one.ports,
        volumes=one.volumes,
        cpus=one.cpus,
        memory=one.memory,
        labels=one.labels,
        placed=bool(one.claim),
        since=one.since,
        changed=one.changed,
    )
