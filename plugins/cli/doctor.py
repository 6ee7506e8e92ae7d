"""`qnet doctor`: what is wrong with this host and its cluster, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import click

from plugins.cli.health import Finding, found_by
from plugins.cli.output import json_option, printable, show_json
from plugins.cli.session import Session, pass_session
from qnet.errors import QnetError
from qnet.settings import DEFAULT_FILE, Settings
from qnet.store.base import Store

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@json_option
@click.pass_context
@pass_session
def doctor(session: Session, ctx: click.Context, as_json: bool) -> None:
    """Look for what is wrong, and say what to do. Exit code 1 if anything failed."""
    found = []
    for finding in _examine(session):
        found.append(finding)
        if not as_json:
            todo = f" — {finding.todo}" if finding.todo else ""
            click.echo(f"{click.style(f'{finding.level:<5}', COLOURS[finding.level])}{printable(finding.what + todo)}")
    if as_json:
        show_json(found)
    if any(finding.level == "fail" for finding in found):
        ctx.exit(1)


def _examine(session: Session) -> Iterator[Finding]:
    """All checks, one after the other; without settings there is nothing else to ask."""
    try:
        settings = session.settings
    except QnetError as error:
        yield Finding("fail", str(error), "correct it: qnet reads nothing else before")
        return
    file = session.file or (DEFAULT_FILE if DEFAULT_FILE.exists() else "defaults and environment")
    yield Finding("ok", f"settings: {file}; this host is {settings.host.name}")
    yield from _machine(session, settings)
    try:
        with session.store() as store:
            yield from _cluster(store, settings)
            from plugins.cli.volume_checks import volumes

            yield from found_by("volumes", partial(volumes, store, settings, session.now))
    except QnetError as error:
        yield Finding("fail", f"store: {error}")


def _machine(session: Session, settings: Settings) -> Iterator[Finding]:
    from plugins.cli import host_checks as checks
    from qnet.engine import Engine

    engine = Engine(settings.docker.socket, settings.docker.timeout)
    yield from found_by("engine", partial(checks.engine, settings.docker, engine))
    yield from found_by("plugin", partial(checks.plugin, settings.network))
    yield from found_by("kernel", partial(checks.kernel, session.features))
    yield from found_by("parents", partial(checks.parents, settings, session.links))
    yield from found_by("forwarding", partial(checks.forwarding, settings.host.state_dir, session.forwards))
    yield from found_by("journal", partial(checks.journal, settings.host.state_dir))


def _cluster(store: Store, settings: Settings) -> Iterator[Finding]:
    from plugins.cli import cluster_checks as checks
    from qnet.engine import Engine

    members = checks.members(store)
    yield from members
    if all(member.level == "fail" for member in members):
        return
    engine = Engine(settings.docker.socket, settings.docker.timeout)
    yield from found_by("round trip", partial(checks.round_trip, store))
    yield from found_by("host name", partial(checks.host_name, store, settings))
    yield from found_by("restore", partial(checks.restoring, store))
    yield from found_by("conflicts", partial(checks.conflicts, store, engine, settings.host.name))
    yield from found_by("quarantine", partial(checks.quarantine, store))
