"""The loop that compares records, engine and kernel: after every change of the engine, and every so often."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from plugins.ipam.repair import Repair as AddressRepair
from plugins.network.repair import Repair as NetworkRepair
from qnet import log
from qnet.engine import Engine, EngineView
from qnet.errors import Conflict, Unavailable

logger = logging.getLogger(__name__)

# A `docker run --rm` makes half a dozen events within half a second: one comparison after them is enough, and a
# comparison meanwhile would take the engine's time from the run itself.
SETTLE = 0.2
PAUSE = 0.5


class RepairLoop:
    """Two threads: one follows the engine's events, one compares. A burst of events makes one comparison."""

    def __init__(
        self,
        engine: Engine,
        addresses: AddressRepair,
        networks: NetworkRepair,
        online: Callable[[], None],
        poke: threading.Event,
        interval: float,
    ) -> None:
        self._engine = engine
        self._addresses = addresses
        self._networks = networks
        self._online = online
        self._poke = poke
        self._interval = interval
        self._stop = threading.Event()
        self._threads = (
            threading.Thread(target=self._engine.follow, args=(poke.set, self._stop), name="events", daemon=True),
            threading.Thread(target=self._compare, name="repair", daemon=True),
        )

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask both to end; neither is waited for long."""
        self._stop.set()
        self._poke.set()
        self._threads[1].join(timeout=0.3)  # what it leaves half done, the next process compares

    def _compare(self) -> None:
        away = ""
        while not self._stop.is_set():
            self._poke.clear()
            log.new_request()
            try:
                self._once()
                if away:
                    logger.info("repair: reachable again")
                away = ""
            except (Unavailable, Conflict) as error:
                if str(error) != away:
                    logger.warning("repair waits: %s", error)
                away = str(error)
            except Exception:
                logger.exception("repair failed; it is tried again")
            self._stop.wait(PAUSE)
            self._poke.wait(self._interval)
            self._stop.wait(SETTLE)

    def _once(self) -> None:
        self._networks.local()
        self._online()
        seen: list[EngineView] = []

        def view() -> EngineView:
            seen.append(self._engine.view())
            return seen[-1]

        self._addresses.run(view)
        self._networks.run(seen[-1], self._engine.view)
