"""HTTP over a unix socket, as an engine and its plugins speak it."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server that listens at `path`."""

    def __init__(self, path: Path, timeout: float = 10) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


def call(path: Path, method: str, url: str, body: object = None, timeout: float = 10) -> tuple[int, Any]:
    """One request; returns status and the parsed JSON answer (text, if it is none). Raises OSError and
    http.client.HTTPException when nobody answers."""
    connection = UnixConnection(path, timeout)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, url, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text


def answers(path: Path, method: str, url: str, timeout: float = 2) -> bool:
    """Whether the server there answers with 200."""
    try:
        return call(path, method, url, timeout=timeout)[0] == 200
    except (OSError, http.client.HTTPException):
        return False
