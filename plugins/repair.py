"""The loop that compares records, engine and kernel: after every change of the engine, and every so often."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from plugins.ipam.repair import Repair as AddressRepair
from plugins.network.repair import Repair as NetworkRepair
from qnet import log, systemd
from qnet.engine import Engine, EngineView
from qnet.errors import Conflict, Unavailable
from qnet.loop import Loop

logger = logging.getLogger(__name__)

# A `docker run --rm` makes half a dozen events within half a second: one comparison after them is enough, and a
# comparison meanwhile would take the engine's time from the run itself.
SETTLE = 0.2
PAUSE = 0.5


class RepairLoop(Loop):
    """A burst of events makes one comparison."""

    def __init__(
        self,
        engine: Engine,
        addresses: AddressRepair,
        networks: NetworkRepair,
        online: Callable[[], None],
        poke: threading.Event,
        interval: float,
    ) -> None:
        super().__init__(engine, poke)
        self._engine = engine
        self._addresses = addresses
        self._networks = networks
        self._online = online
        self._interval = interval

    def compare(self) -> None:
        """Until the end; an error is logged once, and tried again."""
        away = ""
        while not self.stopping.is_set():
            self.poke.clear()
            log.new_request()
            try:
                self._once()
                if away:
                    logger.info("repair: reachable again")
                away = ""
                systemd.report()
            except (Unavailable, Conflict) as error:
                if str(error) != away:
                    logger.warning("repair waits: %s", error)
                away = str(error)
                systemd.report(away)
            except Exception:
                logger.exception("repair failed; it is tried again")
                systemd.report("a comparison that failed")
            self.stopping.wait(PAUSE)
            self.poke.wait(self._interval)
            self.stopping.wait(SETTLE)

    def _once(self) -> None:
        self._networks.local()
        self._online()
        seen: list[EngineView] = []

        def view() -> EngineView:
            seen.append(self._engine.view())
            return seen[-1]

        self._addresses.run(view)
        self._networks.run(seen[-1], self._engine.view)
