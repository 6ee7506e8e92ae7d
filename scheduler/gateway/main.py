"""Entry point of `qnet-gateway`: Docker's API for the whole fleet. Any number of them run; each places by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qnet import exporter, systemd
from qnet.certificates import server_context
from qnet.errors import InvalidRequest, QnetError
from qnet.program import begin, refuse
from qnet.settings import Settings
from scheduler.compose import Replica, replica
from scheduler.gateway.builds import Builds
from scheduler.gateway.containers import Containers
from scheduler.gateway.create import Creation
from scheduler.gateway.events import Events
from scheduler.gateway.images import Images
from scheduler.gateway.networks import Networks
from scheduler.gateway.routes import Router
from scheduler.gateway.server import Server
from scheduler.gateway.services import Services
from scheduler.gateway.system import System
from scheduler.gateway.upstream import Upstreams
from scheduler.gateway.volumes import Volumes
from scheduler.streams import turns

logger = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds for what is being answered when it is to stop
SWITCH = 0.001  # seconds that a thread may keep the loop, or those who place, from going on


def main() -> None:
    """Serve until SIGTERM."""
    config, reload = begin("qnet-gateway", "Docker's API for the whole fleet")
    try:
        asyncio.run(run(config, reload))
    except InvalidRequest as error:
        refuse("qnet-gateway", error)
    except QnetError as error:
        sys.exit(f"qnet-gateway: {error}")
    logging.shutdown()
    os._exit(0)  # threads may wait for engines


async def run(config: Settings, reload: Callable[[], None]) -> None:
    """Serve until SIGTERM. Raises InvalidRequest: the settings; Unavailable: it cannot listen."""
    own = config.gateway
    tls = server_context(own.ca, own.cert, own.key) if own.listen else None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.setswitchinterval(SWITCH)
    made = replica(config)
    services, system, router = build(made, config)
    server = Server(router, services.upstreams, system.headers)
    server.listen_unix(Path(own.socket), own.group)
    if tls is not None:
        server.listen_tcp(own.listen, tls)
    exporter.start(config, "gateway")
    made.start()
    watching, stopped = asyncio.gather(system.follow(), system.cut(), services.upstreams.hangups.run()), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    systemd.watch(partial(turns, asyncio.get_running_loop()))
    await stopped.wait()
    systemd.stopping()
    await server.stop(PATIENCE)
    watching.cancel()
    services.close()
    made.stop()


def build(made: Replica, config: Settings) -> tuple[Services, System, Router]:
    """The parts of the front."""
    upstreams = Upstreams(config.scheduler, config.host.name, config.docker.socket)
    services = Services(made.view, made.desk, made.runs, made.networks, made.known, upstreams, made.audit, made.random)
    images = Images(services)
    containers, volumes = Containers(services, images), Volumes(services)
    system = System(services, containers, images, volumes)
    parts = (
        system,
        Creation(services, images),
        containers,
        images,
        Networks(services),
        volumes,
        Builds(services, images),
    )
    router = Router(
        [route for part in (*parts, Events(services, images.rights)) for route in part.routes()], services.any_host
    )
    return services, system, router
