"""Images brought to hosts before they are needed."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from qnet import log
from qnet.errors import Exhausted, InvalidRequest, QnetError
from scheduler.ask import IMAGE
from scheduler.engines import Engines
from scheduler.model import Machine
from scheduler.rules import CONSTRAINT, parse
from scheduler.view import View

AT_ONCE = 16  # hosts that pull at a time


class PullAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image, and which hosts are to have it: rules of `qnet.constraint`, nothing: all. `auth`: the registry's
    credentials as Docker's API has them in X-Registry-Auth."""

    image: str
    on: str = ""
    platform: str = ""
    auth: str = ""


class Pulled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a host tells of a pull; the last of each has `done`, or `error`."""

    host: str
    status: str = ""
    done: bool = False
    error: str = ""


def pull(view: View, engines: Engines, asked: PullAsked) -> Iterator[Pulled]:
    """Have hosts pull an image; what they tell as it comes.

    Raises:
        InvalidRequest: the rules, or the image's name.
        Exhausted: no host that is ready matches.
    """
    if not IMAGE.fullmatch(asked.image):
        raise InvalidRequest(f"image {asked.image[:64]!r}: give the name of an image")
    constraints = parse({CONSTRAINT: asked.on}).constraints
    hosts = [
        machine
        for machine in sorted(view.machines(), key=lambda one: one.name)
        if machine.state != "down" and all(rule.holds(machine.name, machine.labels) for rule in constraints)
    ]
    if not hosts:
        raise Exhausted(f"no host matches {asked.on!r}" if asked.on else "no host is up")
    return _pull(engines, hosts, asked)


def _pull(engines: Engines, hosts: list[Machine], asked: PullAsked) -> Iterator[Pulled]:
    told: queue.SimpleQueue[Pulled] = queue.SimpleQueue()

    def one(host: Machine) -> None:
        try:
            before = ""
            for part in engines.pull(host, asked.image, asked.auth, asked.platform):
                status = str(part.get("status", ""))
                if status and status != before:
                    told.put(Pulled(host.name, status))
                before = status
            told.put(Pulled(host.name, "pulled", done=True))
        except QnetError as error:
            told.put(Pulled(host.name, error=str(error).removeprefix(f"host {host.name}: ")))

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pull") as crew:
        for host in hosts:
            crew.submit(log.carried(one), host)
        left = len(hosts)
        while left:
            part = told.get()
            left -= part.done or bool(part.error)
            yield part
