"""An engine's calls for the start of containers, over the plugin's socket, and for their end."""

from __future__ import annotations

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from tests.bench.load_socket import Connection, request


class Joins:
    """Starts endpoints on one network, some at a time. Orders: `join`, `leave`."""

    def __init__(self, socket: str, network: str, pool: str, threads: int, **_: Any) -> None:
        self._network, self._pool, self._threads = network, pool, threads
        self._free: SimpleQueue[Connection] = SimpleQueue()
        for _number in range(threads):
            self._free.put(Connection(socket))
        self._joined: list[tuple[str, str]] = []

    def order(self, do: str, count: int = 0, threads: int = 1, **_: Any) -> dict[str, Any]:
        """`join`: returns for each MAC address when its endpoint was asked for and when the engine had the answer.
        Monotonic seconds, the same for all processes of the machine."""
        if do == "leave":
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(self._leave, self._joined))
            self._joined.clear()
            return {}
        with ThreadPoolExecutor(threads) as pool:
            return dict(pool.map(lambda _: self._join(), range(count)))

    def _join(self) -> tuple[str, tuple[float, float]]:
        connection, endpoint = self._free.get(), secrets.token_hex(32)
        given = self._call(connection, "IpamDriver.RequestAddress", PoolID=self._pool, Address="", Options={})
        where = {"NetworkID": self._network, "EndpointID": endpoint, "Options": {}}
        asked = time.monotonic()
        interface = {"Address": given["Address"], "AddressIPv6": "", "MacAddress": ""}
        made = self._call(connection, "NetworkDriver.CreateEndpoint", **where, Interface=interface)
        answered = time.monotonic()
        self._call(connection, "NetworkDriver.Join", **where, SandboxKey="")
        self._joined.append((endpoint, given["Address"].partition("/")[0]))
        self._free.put(connection)
        return made["Interface"]["MacAddress"], (asked, answered)

    def _leave(self, joined: tuple[str, str]) -> None:
        connection, (endpoint, address) = self._free.get(), joined
        for call in ("Leave", "DeleteEndpoint"):
            self._call(connection, f"NetworkDriver.{call}", NetworkID=self._network, EndpointID=endpoint)
        self._call(connection, "IpamDriver.ReleaseAddress", PoolID=self._pool, Address=address)
        self._free.put(connection)

    @staticmethod
    def _call(connection: Connection, call: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(connection.call(request(call, **body)))
        return answer
