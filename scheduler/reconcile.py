"""Finishes or undoes what a replica has left half-way: placed, perhaps made, but never confirmed. Forgets containers
that are gone: an agent tells of those that it has seen, and may have been away for as long as one lived."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

from qnet import metrics
from qnet.errors import NotFound, QnetError
from qnet.sightings import Sightings
from scheduler import translate
from scheduler.commit import Desk
from scheduler.engines import Engines
from scheduler.model import Container, Machine
from scheduler.runs import Runs
from scheduler.view import View

logger = logging.getLogger(__name__)

INTERVAL, GRACE = 2.0, 4.0  # seconds
ROUND = 300.0  # seconds in which every host is asked once what it has, however many there are


class Reconciler:
    """One thread. Of the replicas that live, the one with the lowest id does this for those that do not."""

    def __init__(
        self,
        view: View,
        desk: Desk,
        runs: Runs,
        engines: Engines,
        replica: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._desk = desk
        self._runs = runs
        self._engines = engines
        self._replica = replica
        self._seen = Sightings(GRACE, clock)
        self._asked = ""  # the host that was asked last what it has
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="reconcile", daemon=True).start()

    def stop(self) -> None:
        """Have it end."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            try:
                self.once()
            except QnetError as error:
                logger.warning("reconciliation: %s", error)

    def once(self) -> None:
        """Look at all containers that are being made, and at those of the next hosts. Raises Unavailable."""
        replicas, known = self._view.replicas(), self._view.containers()
        mine = min(replicas, default="") == self._replica
        left = {one.claim: one for one in known if one.by and self._is_left(one, replicas, mine)}
        for claim in self._seen.overdue(left):
            self._settle(left[claim])
        if mine:
            turn = {host.name: host for host in self._next()}
            made: dict[str, list[Container]] = {name: [] for name in turn}
            for one in known:
                if one.host in made and one.id and not one.by:
                    made[one.host].append(one)
            for name, host in turn.items():
                self._compare(host, made[name])

    def _is_left(self, one: Container, replicas: frozenset[str], mine: bool) -> bool:
        if one.by == self._replica:
            return not self._runs.making(one.claim)
        return mine and one.by not in replicas

    def _next(self) -> list[Machine]:
        """The hosts whose turn it is, of those that can be asked."""
        hosts = sorted(self._view.machines(), key=lambda host: host.name)
        later = [host for host in hosts if host.name > self._asked] or hosts
        turn = later[: math.ceil(len(hosts) * INTERVAL / ROUND)]
        self._asked = turn[-1].name if turn else ""
        return [host for host in turn if host.state != "down" and not host.trouble]

    def _compare(self, host: Machine, known: Iterable[Container]) -> None:
        """Remove those that the engine has no more. They were known before it is asked, and no id comes back."""
        try:
            there = self._engines.ids(host)
            for one in known:
                if one.id not in there:
                    self._desk.remove(one)
                    logger.warning("container %s on %s is gone, and nobody had told", one.name, one.host)
                    metrics.REPAIRS.labels("container gone").inc()
        except QnetError as error:
            logger.warning("containers of %s: %s", host.name, error)

    def _settle(self, one: Container) -> None:
        try:
            host = self._view.machine(one.host)
        except NotFound:
            return
        if host.state == "down":
            return  # it may run there: its name and its address stay taken until somebody can look
        try:
            there = self._engines.inspect(host, one.called)
            made = translate.container(there, one.host) if there is not None else None
            if there is not None and made is not None and made.claim == one.claim and translate.was_started(there):
                self._desk.confirm(one, made.id, made.state, running=made.running)
                logger.warning("container %s on %s finished for replica %s", one.name, one.host, one.by)
            else:
                if there is not None and made is not None and made.claim == one.claim:
                    self._engines.remove(host, made.id, force=True, volumes=True)
                self._desk.remove(one, hold=False)
                logger.warning("container %s on %s undone for replica %s", one.name, one.host, one.by)
            metrics.REPAIRS.labels("placement half-way").inc()
        except QnetError as error:
            logger.warning("container %s: %s", one.name, error)
