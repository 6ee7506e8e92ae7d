"""A daemon of a lab host (etcd, the plugin, the engine): start, stop, kill, whether it is ready."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.model import LabError, Node
from tests.lab.namespaces import Namespaces
from tests.lab.processes import PidFile, Process, spawn


class Service:
    """Subclasses say which command runs and when it is ready."""

    name = "service"
    start_timeout = 60.0  # seconds until ready
    stop_timeout = 30.0  # seconds from SIGTERM to its end
    kills_group = True  # whether SIGKILL is for its whole process group

    def __init__(self, node: Node, namespaces: Namespaces) -> None:
        self.node = node
        self._namespaces = namespaces
        self._pidfile = PidFile(node.dir / f"{self.name}.pid")

    def argv(self) -> list[str]:
        """The command line, seen from inside the host."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Environment variables that the daemon gets on top of the starter's."""
        return {}

    def ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        return self.node.disk / f"{self.name}.log"

    @property
    def process(self) -> Process | None:
        return self._pidfile.read()

    @property
    def pid(self) -> int | None:
        process = self.process
        return process.pid if process else None

    def spawn(self, command: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        """Starts it without waiting until it answers; nothing happens if it runs."""
        if self.process:
            return
        variables = {**os.environ, **self.environment(), **(env or {})}
        process = spawn(self._namespaces.argv(command or self.argv()), self.log, variables)
        if process is None:
            raise LabError(f"{self._title}: ended at once: {self.tail()}")
        self._pidfile.write(process)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until it answers. Raises LabError with the end of its log if it ends or takes too long."""
        limit = timeout or self.start_timeout
        deadline = time.monotonic() + limit
        while not self.ready():
            if self.process is None:
                raise LabError(f"{self._title}: ended instead of answering: {self.tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self._title}: no answer within {limit:g} s: {self.tail()}")
            time.sleep(0.05)

    def start(self, command: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        """Starts it and waits until it answers."""
        self.spawn(command, env)
        self.wait()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Sends a signal and waits for the end of the daemon. SIGKILL goes to its workers as well."""
        process = self.process
        if process:
            process.signal(number, group=self.kills_group and number == signal.SIGKILL)
            process.wait(self.stop_timeout, self._title)
        self._pidfile.clear()

    def kill(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) or "(its log is empty)"
        except OSError:
            return "(it has no log)"

    @property
    def _title(self) -> str:
        return f"{self.name} of {self.node.name}"
