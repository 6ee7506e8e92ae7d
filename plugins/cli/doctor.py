"""`qnet doctor`: what is wrong with this host and its cluster, and what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import click

from plugins.cli.health import Check, Finding, at_once
from plugins.cli.output import json_option, printable, show_json
from plugins.cli.session import Session, pass_session
from qnet.errors import QnetError
from qnet.settings import DEFAULT_FILE, Settings
from qnet.store.base import Store

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
PATIENCE = 9.0  # seconds for all checks together
ANSWER = 4.0  # seconds for one answer of the engine: one check may need two


@click.command()
@click.option(
    "--timeout", type=click.FloatRange(1, 600), default=PATIENCE, help="Seconds for all; more on a slow machine."
)
@json_option
@click.pass_context
@pass_session
def doctor(session: Session, ctx: click.Context, timeout: float, as_json: bool) -> None:
    """Look for what is wrong, and say what to do. Exit code 1 if anything failed."""
    found = []
    for finding in examine(session, timeout):
        found.append(finding)
        if not as_json:
            todo = f" — {finding.todo}" if finding.todo else ""
            click.echo(f"{click.style(f'{finding.level:<5}', COLOURS[finding.level])}{printable(finding.what + todo)}")
    if as_json:
        show_json(found)
    if any(finding.level == "fail" for finding in found):
        ctx.exit(1)


def examine(session: Session, timeout: float = PATIENCE) -> Iterator[Finding]:
    """What all checks find, within so many seconds; without settings there is nothing else to ask."""
    deadline = time.monotonic() + timeout
    try:
        settings = session.settings
    except QnetError as error:
        yield Finding("fail", str(error), "correct it: qnet reads nothing else before")
        return
    file = session.file or (DEFAULT_FILE if DEFAULT_FILE.exists() else "defaults and environment")
    yield Finding("ok", f"settings: {file}; this host is {settings.host.name}")
    cluster = partial(_cluster, session, settings, deadline - 0.1)  # it tells which of its own checks are late
    yield from at_once([*_machine(session, settings, timeout), ("store", cluster)], deadline)


def _machine(session: Session, settings: Settings, timeout: float) -> Sequence[tuple[str, Check]]:
    from plugins.cli import daemon_checks as daemons
    from plugins.cli import file_checks as files
    from plugins.cli import host_checks as checks
    from qnet.engine import Engine

    patience = min(settings.docker.timeout, ANSWER)
    engine = Engine(settings.docker.socket, patience)
    return (
        *((f"[{use.section}]", partial(files.files, use, session.today())) for use in files.uses(settings)),
        ("engine", partial(checks.engine, settings.docker.socket, patience, engine)),
        ("plugin", partial(checks.plugin, settings.network)),
        ("kernel", partial(checks.kernel, session.features, timeout / 2)),
        ("parents", partial(checks.parents, settings, session.links)),
        ("forwarding", partial(checks.forwarding, settings.host.state_dir, session.sysctl)),
        ("bridges", partial(checks.bridges, settings.host.state_dir, session.sysctl)),
        ("journal", partial(checks.journal, settings.host.state_dir)),
        ("room", partial(checks.room, settings.host.state_dir, settings.host.run_dir)),
        ("scheduler", partial(daemons.scheduler, settings.scheduler)),
        ("front", partial(daemons.front, settings.gateway)),
        ("units", partial(daemons.units, session.units)),
    )


def _cluster(session: Session, settings: Settings, deadline: float) -> Iterator[Finding]:
    from plugins.cli import cluster_checks as checks

    with session.store() as store:
        members = checks.members(store)
        yield from members
        if any(member.level != "fail" for member in members):
            yield from at_once(_shared(session, settings, store), deadline)


def _shared(session: Session, settings: Settings, store: Store) -> Sequence[tuple[str, Check]]:
    from plugins.cli import cluster_checks as checks
    from plugins.cli import fleet_checks as fleet
    from plugins.cli import host_checks
    from plugins.cli.volume_checks import volumes
    from qnet.engine import Engine
    from qnet.tenants import Tenants

    engine = Engine(settings.docker.socket, min(settings.docker.timeout, ANSWER / 2))
    return (
        ("round trip", partial(checks.round_trip, store)),
        ("host name", partial(checks.host_name, store, settings)),
        ("restore", partial(checks.restoring, store)),
        ("conflicts", partial(checks.conflicts, store, engine, settings.host.name)),
        ("quarantine", partial(checks.quarantine, store)),
        ("hosts", partial(fleet.hosts, store, settings.host.name)),
        ("networks", partial(fleet.networks, store)),
        ("agents", partial(fleet.agents, store, settings.scheduler)),
        ("replicas", partial(fleet.replicas, store)),
        ("company", partial(host_checks.company, settings, Tenants(store, session.now))),
        ("volumes", partial(volumes, store, settings, session.now)),
    )
