"""Docker's plugin protocol: JSON over HTTP whatever the content type, typed requests, errors the engine can show.

Sources: https://docs.docker.com/engine/extend/plugin_api/ and the engine's libnetwork/drivers/remote and ipams/remote.
The engine sends no Content-Type, may repeat a call with an empty body, and reads `Err` (network) or `Error` (IPAM).
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import msgspec
from flask import Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.exceptions import HTTPException

from qnet import log, metrics
from qnet.errors import InvalidRequest, QnetError

logger = logging.getLogger(__name__)

MAX_BODY = 1 << 20
MAX_MESSAGE = 4000
CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"

Id: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z]{1,64}\Z")]
"""An id that the engine made; it goes into file names and link names, so nothing else is let in."""


class Empty(msgspec.Struct, frozen=True):
    """A request or response without fields."""


class ActivateResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """Which driver interfaces the plugin has."""

    implements: tuple[str, ...]


class ErrorResponse(msgspec.Struct, frozen=True):
    """An error under both names that engines look for."""

    err: str = msgspec.field(name="Err")
    error: str = msgspec.field(name="Error")


RequestT = TypeVar("RequestT", bound=msgspec.Struct)
_instances: WeakKeyDictionary[socket.socket, str] = WeakKeyDictionary()
_encode = msgspec.json.Encoder().encode


class Plugin:
    """A Flask application that speaks the plugin protocol; `app` is what gunicorn serves."""

    def __init__(self, implements: Sequence[str]) -> None:
        self.app = Flask("qnet")
        self.app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
        self.app.register_error_handler(HTTPException, _http_error)
        self.app.add_url_rule("/metrics", view_func=_metrics)
        self.query("/Plugin.Activate", lambda: ActivateResponse(tuple(implements)))

    def query(self, path: str, answer: Callable[[], msgspec.Struct]) -> None:
        """Serve a call that has no arguments."""
        self._route(path, lambda _: answer())

    def call(
        self, path: str, request_type: type[RequestT], handler: Callable[[RequestT], msgspec.Struct | None]
    ) -> None:
        """Serve a call with arguments; an empty body is refused, `None` answers `{}`."""
        decoder = msgspec.json.Decoder(request_type)

        def answer(body: bytes) -> msgspec.Struct | None:
            if not body.strip():
                raise InvalidRequest(
                    f"{path}: empty body: the arguments are missing (so engines repeat a call that broke; try again)"
                )
            try:
                arguments = decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidRequest(f"{path}: {error or 'nested too deep'}") from error
            own, answered = log.current(), handler(arguments)
            if log.current() != own:  # it is about what a request has asked for elsewhere
                logger.info("%s answered", path, extra=log.fields(**_words(arguments)))
            return answered

        self._route(path, answer)

    def _route(self, path: str, answer: Callable[[bytes], msgspec.Struct | None]) -> None:
        name = path.removeprefix("/")
        timer = metrics.CALLS.labels(name)

        def view() -> Response:
            log.new_request()
            with timer.time():
                try:
                    return _json(answer(request.get_data(cache=False)) or Empty())
                except HTTPException:
                    raise
                except Exception as error:  # noqa: BLE001 - the edge: the engine must get JSON whatever happens
                    return _failed(name, error)

        self.app.add_url_rule(path, endpoint=name, view_func=view, methods=["POST"])


def _words(arguments: msgspec.Struct) -> dict[str, str]:
    return {name: text for name in arguments.__struct_fields__ if isinstance(text := getattr(arguments, name), str)}


def caller_instance() -> str:
    """Names the process behind the current request, and differs after its restart or the host's.

    Read from the unix socket's peer credentials, once for each connection; empty where those are not to be had (a
    test client).
    """
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return ""
    found = _instances.get(connection)
    if found is None:
        found = _instances[connection] = _instance(connection)
    return found


def _instance(connection: socket.socket) -> str:
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"{pid}"
    return f"{_boot()}-{pid}-{started}"


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(_encode(body), status, content_type=CONTENT_TYPE)


def _error(text: str, status: int) -> Response:
    return _json(ErrorResponse(text, text), status)


def _failed(name: str, error: Exception) -> Response:
    metrics.REFUSALS.labels(name, type(error).__name__).inc()
    if isinstance(error, QnetError):
        text = str(error)
        text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"  # it may repeat what was sent
        logger.warning("%s refused: %s", name, text)
        return _error(text, 500)
    logger.error("%s failed", name, exc_info=error)
    return _error(f"{name}: internal error, see the plugin's log ({type(error).__name__})", 500)


def _http_error(error: HTTPException) -> Response:
    return _error(f"{request.method} {request.path}: {error.description}", error.code or 500)


def _metrics() -> Response:
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)
