"""Says on a container's segment where its addresses are, as soon as the engine has moved its link into it.

At Join the link is not there yet, and a start must not wait: one thread does it afterwards, and looks for the link in
short pauses. Engines from 28 on announce by themselves; once more does no harm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from queue import Full, Queue

from plugins.network.ports import Segment

logger = logging.getLogger(__name__)

PAUSE = 0.05  # seconds between looks
AGAIN = 1.0  # seconds between announcements: one may be lost
TIMES = 3
PATIENCE = 10.0  # seconds for the engine to move the link
LIMIT = 512  # addresses at a time: more than a host can start in that time


@dataclass(frozen=True, slots=True)
class Job:
    """An address to announce `left` times, not before `due` and not after `end` (monotonic seconds)."""

    sandbox: str
    address: str
    due: float
    end: float
    left: int = TIMES


class Announcer:
    """One thread that sleeps while nothing starts."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._queue: Queue[Job] = Queue(LIMIT)
        self._thread = threading.Thread(target=self._run, name="announce", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        self._thread.start()

    def announce(self, sandbox: str, addresses: Iterable[str]) -> None:
        """Announce a container's addresses soon; does not wait.

        Args:
            sandbox: the file of its network namespace, which need not be there yet; empty: nothing is done.
        """
        now = time.monotonic()
        for address in addresses if sandbox else ():
            try:
                self._queue.put_nowait(Job(sandbox, address, now + PAUSE, now + PATIENCE))
            except Full:
                logger.warning("address %s is not announced: too many containers start at once", address)

    def _run(self) -> None:
        jobs: list[Job] = []
        while True:
            if not jobs:
                jobs.append(self._queue.get())
            while len(jobs) < LIMIT and not self._queue.empty():
                jobs.append(self._queue.get())
            now = time.monotonic()
            after = ((self._try(job, now) if job.due <= now else job) for job in jobs)
            jobs = [job for job in after if job is not None]
            time.sleep(PAUSE)

    def _try(self, job: Job, now: float) -> Job | None:
        """What is left to do of a job; None: nothing."""
        try:
            self._segment.announce(job.sandbox, job.address)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)  # the container has ended, or is not there yet
            if now < job.end and not (gone and job.left < TIMES):
                return job
            level = logging.DEBUG if gone else logging.WARNING
            logger.log(level, "address %s is not announced: %s: %s", job.address, job.sandbox, error)
            return None
        return replace(job, left=job.left - 1, due=now + AGAIN) if job.left > 1 else None
