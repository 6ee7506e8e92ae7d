"""An engine's calls over the plugin's socket: many keep-alive connections, served by one thread.

The client must cost little, for it runs on the cores that it measures: requests are made once, answers are cut at
`Content-Length`, and nothing else of HTTP is looked at.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from typing import Any

from tests.bench import records


class Connection:
    """One connection, with at most one request on its way."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self._read = b""

    def send(self, request: bytes) -> None:
        """Send one request."""
        self._read = b""
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """What has arrived; the body once it is complete. Raises RuntimeError unless the answer is 200."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise RuntimeError("the plugin closed the connection")
        self._read += chunk
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return None
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {body.decode(errors='replace')}")
        return body

    def call(self, request: bytes) -> bytes:
        """Send one request and wait for its answer."""
        self.send(request)
        while (body := self.receive()) is None:
            pass
        return body


def request(call: str, **body: Any) -> bytes:
    """A request as the engine's Go client writes it."""
    content = json.dumps(body).encode()
    head = (
        f"POST /{call} HTTP/1.1\r\nHost: %2Frun%2Fdocker%2Fplugins%2Fqnet.sock\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(content)}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n"
        f"Accept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + content


class Sockets:
    """Asks one plugin. Orders: `open` a pool, `run` requests in it."""

    def __init__(self, socket: str, connections: int, **_: Any) -> None:
        self._connections = [Connection(socket) for _ in range(connections)]
        self._given: set[bytes] = set()

    def order(self, do: str, pool: str, seconds: float = 0.0, **_: Any) -> dict[str, Any]:
        """One of `open`, `run`."""
        first = self._connections[0]
        if do == "open":
            options = {"tenant": records.TENANT}
            first.call(
                request("IpamDriver.RequestPool", AddressSpace="qnet", Pool=pool, SubPool="", Options=options, V6=False)
            )
        ask = request("IpamDriver.RequestAddress", PoolID=f"{records.TENANT}/{pool}", Address="", Options={})
        if do == "open":
            first.call(ask)
            return {}
        return self._serial(ask, seconds) if len(self._connections) == 1 else self._many(ask, seconds)

    def _serial(self, ask: bytes, seconds: float) -> dict[str, Any]:
        latencies = []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            at = time.perf_counter()
            self._connections[0].call(ask)
            latencies.append(time.perf_counter() - at)
        return {"calls": len(latencies), "seconds": time.perf_counter() - began, "latencies": latencies}

    def _many(self, ask: bytes, seconds: float) -> dict[str, Any]:
        calls, waiting, began = 0, len(self._connections), time.perf_counter()
        end = began + seconds
        with selectors.DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send(ask)
            while waiting:
                ready = selector.select(10)
                if not ready:
                    raise RuntimeError("no answer within 10 s")
                for key, _ in ready:
                    body = key.data.receive()
                    if body is None:
                        continue
                    calls += 1
                    self._take(body)
                    if time.perf_counter() < end:
                        key.data.send(ask)
                    else:
                        waiting -= 1
        return {"calls": calls, "seconds": time.perf_counter() - began}

    def _take(self, body: bytes) -> None:
        if body in self._given:
            raise RuntimeError(f"an address was handed out twice: {body.decode()}")
        self._given.add(body)
