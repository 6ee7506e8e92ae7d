"""The threads of a daemon that compares what it keeps with the engine."""

from __future__ import annotations

import threading

from qnet.engine import Engine

PATIENCE = 0.3  # seconds that a stop waits: what is left half done, the next process compares


class Loop:
    """Two threads: one follows the engine's events and sets `poke` at each, one runs `compare` until `stopping`."""

    def __init__(self, engine: Engine, poke: threading.Event) -> None:
        self.poke = poke
        self.stopping = threading.Event()
        self._threads = (
            threading.Thread(target=engine.follow, args=(poke.set, self.stopping), name="events", daemon=True),
            threading.Thread(target=self.compare, name="repair", daemon=True),
        )

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have both end; neither is waited for long."""
        self.stopping.set()
        self.poke.set()
        self._threads[1].join(PATIENCE)

    def compare(self) -> None:
        """Compare again and again, until `stopping`."""
        raise NotImplementedError
