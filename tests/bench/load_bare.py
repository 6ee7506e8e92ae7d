"""The baseline: one create-if-absent transaction a call, by the client library as it comes."""

from __future__ import annotations

import itertools
from typing import Any

from pyetcd.client import Endpoint, MultiEndpointEtcd3Client

from tests.bench import threads
from tests.bench.records import record

_runs = itertools.count()


class Bare:
    """Creates keys with values of the size of an address record."""

    def __init__(self, number: int, endpoint: str, threads: int, **_: Any) -> None:
        host, _sep, port = endpoint.partition(":")
        self._client = MultiEndpointEtcd3Client(
            endpoints=[Endpoint(host, int(port), secure=False, time_retry=0.5)], timeout=4, failover=True
        )
        self._prefix = f"/bench/{number}/"
        self._threads = threads
        self._value = record(f"host{number}", number)

    def order(self, do: str, seconds: float = 0.0, calls: int = 0, **_: Any) -> dict[str, Any]:
        """Run for some seconds or a number of calls."""
        client, value, prefix = self._client, self._value, f"{self._prefix}{next(_runs)}/"
        version, put = client.transactions.version, client.transactions.put

        def create(thread: int, turn: int) -> None:
            key = f"{prefix}{thread}/{turn}"
            done, _ = client.transaction(compare=[version(key) == 0], success=[put(key, value)], failure=[])
            if not done:
                raise RuntimeError(f"{key} exists")

        work = threads.run(create, self._threads, seconds, calls)
        return {"calls": work.calls, "seconds": work.seconds, "latencies": work.latencies}
