"""Runs containers: placed, made, started, confirmed; what fails half-way is undone, at once or by `reconcile`."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec

from qnet import log
from qnet.errors import Conflict, InvalidRequest, NotFound, QnetError, Unavailable
from scheduler import translate
from scheduler.ask import NAME, Asked, Known, Wish, ask, with_addresses
from scheduler.commit import Desk
from scheduler.engines import Engines, ImageMissing
from scheduler.feasible import canonical
from scheduler.model import Container, Machine, Request
from scheduler.place import Verdict
from scheduler.rules import HOST
from scheduler.view import View

logger = logging.getLogger(__name__)

AT_ONCE = 8  # containers of one request that are made at a time
MOST = 1000  # containers of one request


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What is to run. `container` is what makes one in Docker's API; of several, each has a number behind its name."""

    container: Mapping[str, Any]
    name: str = ""
    tenant: str
    networks: tuple[Wish, ...] = ()
    platform: str = ""
    instances: int = 1
    pull: str = "missing"
    auth: str = ""
    start: bool = True
    operator: bool = False
    powers: bool = False
    beside: bool = False


class Ran(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one container; `error`: why it does not run, and nothing of it is left."""

    name: str
    host: str = ""
    id: str = ""
    addresses: Mapping[str, tuple[str, ...]] = {}
    error: str = ""
    kind: str = ""


class Runs:
    """See the module. Safe for many threads."""

    def __init__(self, desk: Desk, view: View, engines: Engines, known: Known, hold: int, disk: int = 0) -> None:
        """`hold`: seconds for which addresses are held for a name. `disk`: bytes that a host must have free."""
        self._desk = desk
        self._view = view
        self._engines = engines
        self._known = known
        self._hold = hold
        self._disk = disk
        self._making: set[str] = set()
        self._lock = threading.Lock()
        self._crew = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="run")

    def close(self) -> None:
        """Begin nothing more."""
        self._crew.shutdown(wait=False, cancel_futures=True)

    def run(self, run: Run, done: Callable[[Ran], None] = lambda _: None) -> list[Ran]:
        """Run one or several; each is answered for by itself, in the order of their numbers.

        Raises:
            InvalidRequest: the request makes no sense, nothing was begun.
        """
        asked = self.asked(run)
        if len(asked) == 1:
            found = [self._one(run, done, asked[0])]
        else:
            found = list(self._crew.map(log.carried(partial(self._one, run, done)), asked))
        return found

    def explain(self, run: Run) -> list[Verdict]:
        """Where it would go, and what speaks for and against each host. Raises InvalidRequest."""
        return self._view.explain(self.asked(run)[0].request)

    def remove(self, name: str, tenant: str, *, force: bool, volumes: bool) -> Container:
        """Remove a container; its address is held for the next one of its name, if it was placed so.

        Args:
            tenant: only this one's; empty: anybody's.

        Raises:
            NotFound: there is none, or it is another's.
            Conflict: it runs, and not `force`.
            Unavailable: its host is down.
        """
        container = self.find(name, tenant)
        host = self.up(container)
        self._engines.remove(host, container.id or container.called, force=force, volumes=volumes)
        self._desk.remove(container)
        return container

    def find(self, name: str, tenant: str) -> Container:
        """A container by its name, or by its id or the beginning of it. Raises NotFound, Conflict: several."""
        found = self._view.container(name)
        if found is None or tenant not in ("", found.tenant):
            several = [one for one in self._view.by_id(name) if tenant in ("", one.tenant)]
            if len(several) > 1:
                raise Conflict(f"container {name[:64]}: {len(several)} ids begin like that")
            found = several[0] if several else None
        if found is None or tenant not in ("", found.tenant):
            raise NotFound(f"container {name[:64]} is not there: see qnet ps --all")
        return found

    def making(self, claim: str) -> bool:
        """Whether this process is making a container right now."""
        return claim in self._making

    # -- one container ---------------------------------------------------------------------------------------

    def asked(self, run: Run) -> list[Asked]:
        """Each of them by itself. Raises InvalidRequest: what is wrong."""
        if not 1 <= run.instances <= MOST:
            raise InvalidRequest(f"instances {run.instances}: 1 to {MOST}")
        base = run.name or f"{_base(str(run.container.get('Image') or 'container'))}-{secrets.token_hex(3)}"
        names = [base] if run.instances == 1 else [f"{base}-{number + 1}" for number in range(run.instances)]
        hold = self._hold if run.name else 0
        asked = [
            ask(
                name,
                run.container,
                run.networks,
                run.tenant,
                run.platform,
                self._known,
                operator=run.operator,
                powers=run.powers,
                beside=run.beside,
                hold=hold,
                disk=self._disk,
                group=base,
            )
            for name in names
        ]
        for spread in asked[0].request.spreads:
            if spread.label != HOST and not any(spread.label in one.labels for one in self._view.machines()):
                raise InvalidRequest(f"spread over {spread.label}: no host has that label; see qnet host ls")
        return asked

    def _one(self, run: Run, done: Callable[[Ran], None], asked: Asked) -> Ran:
        try:
            made = self._make(run, asked)
            addresses = {network: tuple(kept.address for kept in found) for network, found in made.addresses.items()}
            ran = Ran(made.name, made.host, made.id, addresses)
        except QnetError as error:
            ran = Ran(asked.request.name, error=str(error), kind=type(error).__name__)
        done(ran)
        return ran

    def begin(self, request: Request) -> Container:
        """Place a container that this process makes now; `undo` or `confirm` ends that. Raises as `Desk.place`."""
        placed = self._desk.place(request)
        with self._lock:
            self._making.add(placed.claim)
        return placed

    def confirm(self, placed: Container, created: str, *, running: bool) -> Container:
        """It is made, and has this id. Raises Conflict: it was removed meanwhile; Unavailable."""
        made = self._desk.confirm(placed, created, "running" if running else "created", running=running)
        if made is None:
            raise Conflict(f"container {placed.name} was removed while it was made")
        self._no_more(placed)
        return made

    def there(self, host: Machine, container: Container) -> dict[str, Any] | None:
        """All that the engine tells of a container; None: it has none. Raises Unavailable."""
        return self._engines.inspect(host, container.id or container.called)

    def undo(self, placed: Container) -> None:
        """Leave nothing of it; what cannot be reached now, `reconcile` undoes."""
        try:
            host = self._view.machine(placed.host)
            there = self._engines.inspect(host, placed.called)
            if there is not None and translate.container(there, placed.host).claim == placed.claim:
                self._engines.remove(host, there["Id"], force=True, volumes=True)
            self._desk.remove(placed, hold=False)
        except QnetError as error:
            logger.warning("container %s is left to be undone: %s", placed.name, error)
        finally:
            self._no_more(placed)

    def _no_more(self, placed: Container) -> None:
        with self._lock:
            self._making.discard(placed.claim)

    def _make(self, run: Run, asked: Asked) -> Container:
        placed = self.begin(asked.request)
        try:
            return self._on_host(run, asked, placed)
        except QnetError:
            self.undo(placed)
            raise

    def _on_host(self, run: Run, asked: Asked, placed: Container) -> Container:
        host = self._view.machine(placed.host)
        body, others = bodies(asked, placed)
        brought = run.operator or self._view.sees(run.tenant, placed.image)
        if run.pull == "always" or not brought:  # what others have brought, it has to bring with its own credentials
            self._pull(run, host, placed.image)
        if not brought:
            self._desk.grant(run.tenant, placed.image, made=False)
        try:
            created = self._engines.create(host, placed.called, body, run.platform)
        except ImageMissing:
            if run.pull == "never":
                raise
            self._pull(run, host, placed.image)
            created = self._engines.create(host, placed.called, body, run.platform)
        for network, settings in others:
            self._engines.connect(host, network, created, settings)
        if run.start:
            self._engines.start(host, created)
        return self.confirm(placed, created, running=run.start)

    def _pull(self, run: Run, host: Machine, image: str) -> None:
        """What nobody has is a tenant's that brings it before it is there: by a name without rights it would be for
        all."""
        rights = self._view.rights(canonical(image))
        fresh = not (run.operator or rights or self._view.told(image)) and self._view.sees(run.tenant, image)
        if fresh:
            self._desk.grant(run.tenant, image, made=False)
        try:
            for _ in self._engines.pull(host, image, run.auth, run.platform):
                pass
        except QnetError:
            if fresh:
                self._desk.revoke(run.tenant, image)
            raise

    def up(self, container: Container) -> Machine:
        """A container's host. Raises Unavailable: it is down."""
        try:
            host = self._view.machine(container.host)
        except NotFound:
            raise Unavailable(f"container {container.name}: its host {container.host} is not registered") from None
        if host.state == "down":
            raise Unavailable(
                f"container {container.name}: its host {host.name} is down; when it is gone for good: "
                f"qnet host forget --force {host.name}"
            )
        return host


def bodies(asked: Asked, placed: Container) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """What the engine is told, with the claim and the addresses."""
    kept = {network: [one.address for one in found] for network, found in placed.addresses.items()}
    own = {translate.CLAIM: placed.claim} | ({translate.NAME: placed.name} if placed.called != placed.name else {})
    body = {**asked.body, "Labels": {**asked.body["Labels"], **own}}
    endpoints = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    if endpoints:
        fresh = {name: with_addresses(entry or {}, kept.get(name, ())) for name, entry in endpoints.items()}
        body["NetworkingConfig"] = {"EndpointsConfig": fresh}
    return body, [(name, with_addresses(settings, kept.get(name, ()))) for name, settings in asked.others]


def _base(image: str) -> str:
    """A name to begin with, of an image."""
    name = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return name if NAME.fullmatch(name) else "container"
