"""Serves the metrics of this process to Prometheus: on loopback to anybody, elsewhere to operators' certificates."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
import time
from importlib.metadata import version
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from qnet import metrics
from qnet.certificates import peer_of, server_context
from qnet.errors import InvalidRequest
from qnet.listen import is_loopback, parse_listen
from qnet.settings import Agent, Settings

logger = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that a client may say nothing
CONNECTIONS = 64  # at a time
AGAIN = 5.0  # seconds until a port that was taken is tried again: a daemon's last worker may still have it


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, *_: object) -> None:
        """A scrape is nothing to tell of."""


class _Server(ThreadingWSGIServer):
    """prometheus_client's own, but for its TLS: that waits for each client's handshake before it takes the next one,
    and lets in whoever has any certificate of the authority, so tenants too."""

    tls: ssl.SSLContext | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._room = threading.BoundedSemaphore(CONNECTIONS)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection; else it is closed."""
        return self._room.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection from its beginning to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one connection, in its own thread. Raises OSError: it broke off, or is not let in."""
        request.settimeout(PATIENCE)
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as secured:
            peer = peer_of(secured)
            if peer is None or peer.role != "operator":
                raise PermissionError("metrics are for certificates of operators")
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of it in a line."""
        logger.info("scrape from %s: %s", client_address[0], sys.exc_info()[1])


class _Server6(_Server):
    address_family = socket.AF_INET6


def start(config: Settings, daemon: str) -> None:
    """Serve at `[metrics]` what a daemon counts, on a thread that ends with the process. A port that is taken, or a
    missing certificate, is logged and tried again: a daemon does not stop for that."""
    metrics.BUILD.labels(version("qnet")).set(1)
    metrics.STARTED.set_to_current_time()  # prometheus_client's own needs /proc/stat, which units may not see
    listen: str = getattr(config.metrics, daemon)
    if listen:
        threading.Thread(target=_serve, args=(listen, config.agent), name="metrics", daemon=True).start()


def _serve(listen: str, own: Agent) -> NoReturn:
    told = ""
    while True:
        try:
            _listen(listen, own).serve_forever()
        except (OSError, InvalidRequest) as error:
            if str(error) != told:
                logger.warning("no metrics at %s; tried again every %g s: %s", listen, AGAIN, error)
            told = str(error)
        time.sleep(AGAIN)


def _listen(listen: str, own: Agent) -> _Server:
    """Raises OSError: the port is taken; InvalidRequest: no place to listen, or no certificate."""
    host, port = parse_listen(listen)
    tls = None if is_loopback(host) else server_context(own.ca, own.cert, own.key)
    made = make_server(host, port, make_wsgi_app(), _Server6 if ":" in host else _Server, _Handler)
    made.tls = tls
    return made
