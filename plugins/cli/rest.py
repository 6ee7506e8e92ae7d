"""Calls of the placement service: on its unix socket, or over TLS with a certificate where the settings name one."""

from __future__ import annotations

import http.client
import json
import logging
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from plugins.cli.unixhttp import Connection, reason
from qnet import log
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, QnetError, Unavailable
from qnet.settings import Settings

logger = logging.getLogger(__name__)

CONNECT, ANSWER = 5.0, 900.0  # seconds; a pull takes long
KINDS: Mapping[str, type[QnetError]] = {
    kind.__name__: kind for kind in (InvalidRequest, NotFound, Conflict, Exhausted, Unavailable)
}
BAD = 400


class Rest:
    """The service that this host's settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def call(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """What the service answers. Raises the error that it tells, and Unavailable."""
        connection, response = self._ask(method, path, body, query)
        try:
            return _json(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the placement service broke off: {error}") from error
        finally:
            connection.close()

    def lines(self, method: str, path: str, body: object = None) -> Iterator[Any]:
        """What the service tells, object by object. Raises as `call`."""
        connection, response = self._ask(method, path, body, {})
        try:
            for line in response:
                yield _json(line)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the placement service broke off: {error}") from error
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: object, query: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection, id_ = self._connection(), log.new_request()
        url = quote(path) + (f"?{urlencode({k: v for k, v in query.items() if v})}" if query else "")
        text = None if body is None else json.dumps(body)
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(ANSWER)
            connection.request(method, url, text, {"Content-Type": "application/json", log.HEADER: id_})
            response = connection.getresponse()
            logger.info("%s %s answered", method, path, extra=log.fields(status=response.status))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            why = f"{reason(error)} (request {id_})"
            raise Unavailable(f"no answer from the placement service at {self._where}: {why}") from error
        if response.status >= BAD:
            told = _json(response.read())
            connection.close()
            kind = KINDS.get(str(told.get("kind")), QnetError) if isinstance(told, dict) else QnetError
            raise kind(f"{told.get('message') if isinstance(told, dict) else told} (request {id_})")
        return connection, response

    @property
    def _where(self) -> str:
        return self._settings.client.url or self._settings.scheduler.socket

    def _connection(self) -> http.client.HTTPConnection:
        client = self._settings.client
        if not client.url:
            return Connection(self._settings.scheduler.socket, CONNECT)
        parts = urlsplit(client.url)
        if parts.scheme != "https" or not parts.hostname:
            raise InvalidRequest(f"settings: client.url {client.url!r}: https://HOST:PORT")
        try:
            context = ssl.create_default_context(cafile=client.ca)
            context.load_cert_chain(client.cert, client.key)
        except OSError as error:
            raise InvalidRequest(f"settings: client.ca, client.cert or client.key: {reason(error)}") from error
        return http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=CONNECT, context=context)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Unavailable(f"the placement service answers {text[:100]!r}") from error
