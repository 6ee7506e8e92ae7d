"""The agent's work: it follows the engine, and compares everything again every now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qnet import metrics, systemd
from qnet.errors import Conflict, QnetError, Unavailable
from qnet.settings import Agent as Policy
from scheduler.agent.collect import collectable
from scheduler.agent.dockerd import Dockerd
from scheduler.agent.networks import ClusterNetworks
from scheduler.agent.publish import Publisher, ended_badly
from scheduler.agent.register import Registration
from scheduler.agent.usage import Usage
from scheduler.translate import container

logger = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between two looks at everything
SILENT = 60.0  # seconds that a report may take: etcd and engine answer, or not, within a few
AGAIN = 1.0  # seconds after which what has failed is tried again


class Agent:
    """Three threads: one hears the engine's events, one looks at what they are about, one reports how the host is."""

    def __init__(
        self,
        engine: Dockerd,
        registration: Registration,
        publisher: Publisher,
        networks: ClusterNetworks,
        usage: Usage,
        policy: Policy,
        host: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._registration = registration
        self._publisher = publisher
        self._networks = networks
        self._usage = usage
        self._policy = policy
        self._host = host
        self._clock = clock
        self._stopping = threading.Event()
        self._work = threading.Condition()
        self._containers: dict[str, None] = {}  # ids in the order of their events
        self._everything = self._facts = True
        self.registered = False
        self._ready: Path | None = None
        self._looked = clock()

    def start(self, ready: Path) -> None:
        """Start the threads; the file is there from when the store knows of this host and its containers on."""
        self._ready = ready
        for name, target in (("events", self._hear), ("look", self._look), ("vitals", self._report)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def alive(self) -> bool:
        """Whether it still looks how the host is, which does not wait long for anything."""
        return self._clock() - self._looked < SILENT + self._policy.usage_interval

    def stop(self) -> None:
        """Have them end; the host is down at once for whoever places."""
        self._stopping.set()
        with self._work:
            self._work.notify_all()
        self._registration.keeper.close()
        self._networks.close()

    def poke(self) -> None:
        """Something has changed that is not about one container."""
        with self._work:
            self._facts = True
            self._work.notify_all()

    # -- threads ---------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        self._engine.follow(self._event, self._all, self._stopping)

    def _event(self, event: Mapping[str, Any]) -> None:
        kind, actor = event.get("Type"), event.get("Actor") or {}
        metrics.EVENTS.labels(kind).inc()
        with self._work:
            if kind == "container":
                self._containers[actor.get("ID", "")] = None
            elif kind == "network" and event.get("Action") in ("connect", "disconnect"):
                self._containers[(actor.get("Attributes") or {}).get("container", "")] = None
            elif kind != "image":
                self._facts = True
            self._containers.pop("", None)
            self._work.notify_all()
        if ended_badly(event):
            self._usage.failed()

    def _all(self) -> None:
        with self._work:
            self._everything = self._facts = True
            self._work.notify_all()

    def _look(self) -> None:
        due = 0.0
        while not self._stopping.is_set():
            with self._work:
                self._work.wait_for(self._due, max(0.0, due - self._clock()))
                late = self._clock() >= due
                containers, self._containers = list(self._containers), {}
                everything, self._everything = self._everything or late, False
                facts, self._facts = self._facts or late, False
            try:
                self._once(containers, everything, facts)
                due = self._clock() + INTERVAL if everything else due
            except (QnetError, OSError) as error:  # a full disk, say
                logger.warning("tried again in a moment: %s", error)
                systemd.report(str(error))
                self._all()
                self._stopping.wait(AGAIN)
                self._in_trouble(error)

    def _due(self) -> bool:
        return bool(self._containers) or self._everything or self._facts or self._stopping.is_set()

    def _once(self, containers: list[str], everything: bool, facts: bool) -> None:
        if self._stopping.is_set():
            return
        if not self.registered:
            self._networks.start()
            self._registration.tell()
            self._registration.keeper.start()
            self.registered = True
        for one in containers:
            self._publisher.look(one)
        if facts:
            self._networks.compare()
            self._registration.tell()
        if everything:
            self._publisher.compare()
            self._collect()
            if self._ready is not None:
                self._ready.touch()
            systemd.report()

    def _in_trouble(self, error: Exception) -> None:
        if isinstance(error, Unavailable) and str(error).startswith("engine") and self.registered:
            try:
                self._registration.tell_trouble("the engine")
            except QnetError as also:
                logger.debug("%s", also)

    def _collect(self) -> None:
        if not self._policy.collect_after:
            return
        listed = [entry for entry in self._engine.containers() if entry.get("State") in ("exited", "dead")]
        found = [container(entry, self._host) for one in listed if (entry := self._engine.inspect(one["Id"]))]
        for one in collectable(found, self._policy, datetime.now(UTC)):
            try:
                self._engine.remove(one.id)
                logger.info("container %s collected: it ended at %s", one.name, one.changed)
            except Conflict as error:
                logger.info("%s", error)

    def _report(self) -> None:
        while not self._stopping.is_set():
            self._looked = self._clock()
            try:
                self._usage.look()
                if self.registered:
                    self._registration.tell_vitals(self._usage)
            except (QnetError, OSError) as error:
                logger.debug("vitals: %s", error)
            self._stopping.wait(self._policy.usage_interval)
