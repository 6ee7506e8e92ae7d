"""Runs a Flask application under gunicorn on a unix socket: one worker process with threads, restarted if it dies."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from qnet import log, settings
from qnet.errors import QnetError
from qnet.settings import Settings

if TYPE_CHECKING:
    from flask import Flask

PR_SET_PDEATHSIG = 1
A_DAY = 86400
LINGER = 10  # milliseconds
FAREWELL = 0.3  # seconds that idle connections stay when the daemon stops: a call that comes meanwhile is answered


class Worker(ThreadWorker):  # type: ignore[misc]
    """A thread stays with its connection for a moment after an answer: engines make several calls in a row, and the
    way back through the poller costs more than most calls. At most half of the threads wait like this."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: set[Any] = set()

    def handle(self, conn: Any) -> Any:
        """Serve one request, and those that follow it closely."""
        kept = super().handle(conn)
        while kept is True and self.alive and len(self._lingering) < self.cfg.threads // 2 and self._more(conn):
            kept = super().handle(conn)
        return kept

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn waits two seconds for calls on idle connections, and a restart waits for that."""
        super()._cap_keepalive(min(deadline, time.monotonic() + FAREWELL))

    def _more(self, conn: Any) -> bool:
        waiting = select.poll()
        waiting.register(conn.sock, select.POLLIN)
        self._lingering.add(conn)
        try:
            return bool(waiting.poll(LINGER))
        finally:
            self._lingering.discard(conn)


class Daemon(BaseApplication):  # type: ignore[misc]
    """Serves what `build` returns. `build` runs in the worker, after the fork: gRPC channels do not survive one."""

    def __init__(self, build: Callable[[], tuple[Flask, Callable[[], None]]], socket: Path, threads: int) -> None:
        self._build = build
        self._socket = socket
        self._threads = threads
        self._stop: Callable[[], None] = lambda: None
        super().__init__()

    def load_config(self) -> None:
        """gunicorn's settings. Idle connections stay open for a day: an engine that meets a closed one repeats
        its call with an empty body."""
        chosen = {
            "bind": f"unix:{self._socket}",
            "umask": 0o177,
            "workers": 1,
            "worker_class": "qnet.daemon.Worker",
            "threads": self._threads,
            "keepalive": A_DAY,
            "timeout": 60,
            "graceful_timeout": 4,
            "loglevel": "warning",
            "post_fork": _die_with_parent,
            "worker_exit": self._leave,
        }
        for option, value in chosen.items():
            self.cfg.set(option, value)
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)

    def load(self) -> Flask:
        """Build the application, in the worker."""
        app, self._stop = self._build()
        return app

    def _leave(self, _server: Any, worker: Any) -> None:
        """Stop, and end at once: what the interpreter would take apart takes it most of a second."""
        self._stop()
        if worker.booted:
            logging.shutdown()
            os._exit(0)

    def run(self) -> None:
        """Serve until SIGTERM."""
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        super().run()


def serve(
    name: str, description: str, build: Callable[[Settings], tuple[Flask, Callable[[], None]]], section: str
) -> None:
    """Serve until SIGTERM what `build` makes of the settings, in the worker; `section` of them has `socket` and
    `threads`."""
    try:
        config = settings.from_command_line(name, description)
    except QnetError as error:
        sys.exit(f"{name}: {error}")
    log.setup(config.log.level)
    os.umask(0o022)  # modes of what is made, volumes too, do not depend on who starts this
    own = getattr(config, section)
    Daemon(partial(build, config), Path(own.socket), own.threads).run()


def _die_with_parent(_server: Any, worker: Any) -> None:
    """No worker outlives its arbiter: two of them must not serve one host."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker.ppid:
        os.kill(os.getpid(), signal.SIGKILL)
