"""Runs a Flask application under gunicorn on a unix socket: one worker process with threads, restarted if it dies."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from qnet import systemd
from qnet.certificates import server_context
from qnet.errors import InvalidRequest, QnetError
from qnet.listen import share
from qnet.program import begin, refuse
from qnet.settings import Settings

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
A_DAY = 86400
LINGER = 10  # milliseconds
HANDSHAKE = 10.0  # seconds
ANSWER = 10.0  # seconds that a sign of life may take
FAREWELL = 0.3  # seconds that idle connections stay when the daemon stops: a call that comes meanwhile is answered


class Worker(ThreadWorker):  # type: ignore[misc]
    """A thread stays with its connection for a moment after an answer: engines make several calls in a row, and the
    way back through the poller costs more than most calls. At most half of the threads wait like this."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: set[Any] = set()

    def init_signals(self) -> None:
        """As gunicorn's, and take up changed settings."""
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: self.app.reload_settings())

    def handle(self, conn: Any) -> Any:
        """Serve one request, and those that follow it closely."""
        if not conn.initialized and conn.sock.family != socket.AF_UNIX and not self._secured(conn):
            return False
        kept = super().handle(conn)
        while kept is True and self.alive and len(self._lingering) < self.cfg.threads // 2 and self._more(conn):
            kept = super().handle(conn)
        return kept

    def _secured(self, conn: Any) -> bool:
        """Whether the other end of a connection that came by TCP has shown a certificate of the cluster's."""
        if isinstance(conn.sock, ssl.SSLSocket):
            return True
        try:
            conn.sock.settimeout(HANDSHAKE)
            conn.sock = self.app.tls.wrap_socket(conn.sock, server_side=True)
        except OSError as error:
            logger.info("%s refused: %s", conn.client[0], error)
            return False
        conn.data_ready = True  # what it sent may have been read with the end of the handshake
        return True

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


class Supervisor(Arbiter):  # type: ignore[misc]
    """gunicorn would start a second worker on SIGHUP and end the first, but two must not serve one host."""

    def handle_hup(self) -> None:
        """Have the worker take up changed settings."""
        self.kill_workers(signal.SIGHUP)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End, with the status by which systemd knows wrong settings."""
        super().halt(reason, os.EX_CONFIG if exit_status == Arbiter.APP_LOAD_ERROR else exit_status)


class Daemon(BaseApplication):  # type: ignore[misc]
    """Serves what `build` returns. `build` runs in the worker, after the fork: gRPC channels do not survive one.

    `group`, which the setting `group_key` names, may use the socket too. At `listen` (HOST:PORT) it is served as well,
    to whom `tls` lets in.
    """

    def __init__(
        self,
        build: Callable[[], tuple[Flask, Callable[[], None]]],
        socket: Path,
        threads: int,
        group: str = "",
        group_key: str = "",
        listen: str = "",
        tls: ssl.SSLContext | None = None,
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        self._build = build
        self._socket = socket
        self._threads = threads
        self._group = group
        self._group_key = group_key
        self._listen = listen
        self.tls = tls
        self.reload_settings = reload
        self._stop: Callable[[], None] = lambda: None
        super().__init__()

    def load_config(self) -> None:
        """gunicorn's settings. Idle connections stay open for a day: an engine that meets a closed one repeats
        its call with an empty body."""
        chosen = {
            "bind": [f"unix:{self._socket}", *([self._listen] if self._listen else [])],
            "umask": 0o177,
            "workers": 1,
            "worker_class": "qnet.daemon.Worker",
            "threads": self._threads,
            "keepalive": A_DAY,
            "timeout": 60,
            "graceful_timeout": 4,
            "loglevel": "warning",
            "post_fork": _die_with_parent,
            "when_ready": self._share,
            "worker_exit": self._leave,
        }
        for option, value in chosen.items():
            self.cfg.set(option, value)
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)

    def load(self) -> Flask:
        """Build the application, in the worker."""
        try:
            app, self._stop = self._build()
        except InvalidRequest as error:
            logger.error("%s", error)
            sys.exit(Arbiter.APP_LOAD_ERROR)
        systemd.watch(self._alive)
        return app

    def _alive(self) -> bool:
        """Whether a call would be answered."""
        connection = HTTPConnection("localhost", timeout=ANSWER)
        try:
            with socket.socket(socket.AF_UNIX) as connection.sock:
                connection.sock.settimeout(ANSWER)
                connection.sock.connect(str(self._socket))
                connection.request("GET", "/", headers={"Connection": "close"})
                return connection.getresponse().status > 0
        except (OSError, HTTPException):
            return False

    def _share(self, _server: Any) -> None:
        """Let the group use the socket. gunicorn's own way is to run as the group, which only root can."""
        if self._group:
            try:
                share(self._socket, self._group_key, self._group)
            except InvalidRequest as error:
                logger.error("%s", error)
                sys.exit(os.EX_CONFIG)

    def _leave(self, _server: Any, worker: Any) -> None:
        """Stop, and end at once: what the interpreter would take apart takes it most of a second."""
        systemd.stopping()
        self._stop()
        if worker.booted:
            logging.shutdown()
            os._exit(0)

    def run(self) -> None:
        """Serve until SIGTERM."""
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        Supervisor(self).run()


def serve(
    name: str, description: str, build: Callable[[Settings], tuple[Flask, Callable[[], None]]], section: str
) -> None:
    """Serve until SIGTERM what `build` makes of the settings, in the worker; `section` of them has `socket` and
    `threads`."""
    config, reload = begin(name, description)
    own = getattr(config, section)
    try:
        tls = server_context(own.ca, own.cert, own.key) if getattr(own, "listen", "") else None
    except QnetError as error:
        refuse(name, error)
    group, listen = getattr(own, "group", ""), getattr(own, "listen", "")
    daemon = partial(Daemon, partial(build, config), Path(own.socket), own.threads)
    daemon(group, f"{section}.group", listen, tls, reload).run()


def _die_with_parent(_server: Any, worker: Any) -> None:
    """No worker outlives its arbiter: two of them must not serve one host."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker.ppid:
        os.kill(os.getpid(), signal.SIGKILL)
