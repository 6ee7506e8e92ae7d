"""An engine's calls for the start of containers, over the plugin's socket."""

from __future__ import annotations

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from tests.bench.load_socket import Connection, request


class Joins:
    """Starts endpoints on one network, some at a time. They stay. Order: `join`."""

    def __init__(self, socket: str, network: str, pool: str, threads: int, **_: Any) -> None:
        self._network, self._pool = network, pool
        self._free: SimpleQueue[Connection] = SimpleQueue()
        for _number in range(threads):
            self._free.put(Connection(socket))

    def order(self, do: str, count: int, threads: int, **_: Any) -> dict[str, Any]:
        """Returns for each MAC address when its endpoint was asked for and when the engine had the answer. Monotonic
        seconds, the same for all processes of the machine."""
        with ThreadPoolExecutor(threads) as pool:
            return dict(pool.map(lambda _: self._join(), range(count)))

    def _join(self) -> tuple[str, tuple[float, float]]:
        connection, endpoint = self._free.get(), secrets.token_hex(32)
        given = self._call(connection, "IpamDriver.RequestAddress", PoolID=self._pool, Address="", Options={})
        where = {"NetworkID": self._network, "EndpointID": endpoint, "Options": {}}
        interface = {"Address": given["Address"], "AddressIPv6": "", "MacAddress": ""}
        asked = time.monotonic()
        made = self._call(connection, "NetworkDriver.CreateEndpoint", **where, Interface=interface)
        answered = time.monotonic()
        self._call(connection, "NetworkDriver.Join", **where, SandboxKey="")
        self._free.put(connection)
        return made["Interface"]["MacAddress"], (asked, answered)

    @staticmethod
    def _call(connection: Connection, call: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(connection.call(request(call, **body)))
        return answer
