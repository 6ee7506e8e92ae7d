"""One HTTP request to a server of this host, most behind a unix socket, with a deadline for each of its steps."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from qnet.errors import Conflict, Unavailable


class Connection(http.client.HTTPConnection):
    """A connection to the server behind a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect, with the deadline of each step."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(path: str, method: str, url: str, timeout: float) -> dict[str, Any]:
    """The JSON object that the server answers.

    Raises:
        Unavailable: it does not answer, or something else.
    """
    text = _answer(Connection(path, timeout), method, url)
    try:
        body = json.loads(text)
    except ValueError as error:
        raise Unavailable(f"no answer to {url}: {str(error).lower()}") from error
    if not isinstance(body, dict):
        raise Unavailable(f"{url} answers 200: {text[:200]}")
    return body


def call(path: str, url: str, timeout: float, **arguments: str) -> dict[str, Any]:
    """Ask a plugin of this host for something; returns its answer.

    Raises:
        Unavailable: it does not answer.
        Conflict: it refuses, in its own words.
    """
    status, text = _ask(Connection(path, timeout), "POST", url, json.dumps(arguments))
    if status != http.client.OK:
        try:
            raise Conflict(str(json.loads(text)["Err"]))
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"{url} answers {status}: {text[:200]}") from None
    answer: dict[str, Any] = json.loads(text)
    return answer


def read(path: str, url: str, timeout: float) -> str:
    """The text that the server answers. Raises Unavailable."""
    return _answer(Connection(path, timeout), "GET", url)


def read_at(host: str, port: int, url: str, timeout: float) -> str:
    """The same of a server that listens to TCP. Raises Unavailable."""
    return _answer(http.client.HTTPConnection(host, port, timeout=timeout), "GET", url)


def _answer(connection: http.client.HTTPConnection, method: str, url: str) -> str:
    status, text = _ask(connection, method, url)
    if status != http.client.OK:
        raise Unavailable(f"{url} answers {status}: {text[:200]}")
    return text


def _ask(connection: http.client.HTTPConnection, method: str, url: str, body: str | None = None) -> tuple[int, str]:
    try:
        connection.request(method, url, body)
        with connection.getresponse() as response:
            return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"no answer to {url}: {reason(error)}") from error
    finally:
        connection.close()


def reason(error: BaseException) -> str:
    """Why there is no answer, in a few words."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
