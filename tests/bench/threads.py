"""Many threads that do the same until a time or a number is reached."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """What the threads did: calls, the seconds until the last one was done, seconds of each call (one thread only)."""

    calls: int
    seconds: float
    latencies: tuple[float, ...]


def run(call: Callable[[int, int], object], threads: int, seconds: float = 0.0, calls: int = 0) -> Work:
    """Run `call(thread, turn)` on that many threads for some seconds, or that many times in all."""
    counts = [0] * threads
    latencies: list[float] = []
    errors: list[BaseException] = []
    start = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        quota = calls // threads + (number < calls % threads) if calls else None
        done = 0
        start.wait()
        end = time.perf_counter() + seconds
        try:
            while (done < quota) if quota is not None else (time.perf_counter() < end):
                began = time.perf_counter()
                call(number, done)
                if threads == 1:
                    latencies.append(time.perf_counter() - began)
                done += 1
        except BaseException as error:
            errors.append(error)
        counts[number] = done

    crew = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in crew:
        thread.join()
    took = time.perf_counter() - began
    if errors:
        raise errors[0]
    return Work(sum(counts), took, tuple(latencies))
