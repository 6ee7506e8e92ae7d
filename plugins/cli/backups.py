"""`qnet backup`, `qnet restore`: the cluster's state as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from plugins.cli import hostfiles
from plugins.cli.restoring import Done, Restore
from plugins.cli.session import Session, pass_session
from qnet import snapshot
from qnet.engine import EngineView
from qnet.errors import Conflict, InvalidRequest

STANDARD = "-"


@click.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@pass_session
def backup(session: Session, file: str, force: bool) -> None:
    """Write the cluster's state to a file (-: standard output). Nothing waits for it; volumes' data are not in it."""
    path = Path(file)
    if file != STANDARD and path.exists() and not force:
        raise Conflict(f"{file} is there already: choose another name, or add --force")
    with session.store() as store:
        data = snapshot.take(store, session.now())
    if file == STANDARD:
        sys.stdout.buffer.write(data)
        return
    try:
        hostfiles.replace(path, data, hostfiles.SECRET)
    except OSError as error:
        raise InvalidRequest(f"cannot write {file}: {error.strerror}") from error
    header = snapshot.read(data, file).header
    click.echo(f"{file}: {header.keys} keys at revision {header.revision}, {header.size} bytes")


@click.command()
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Only tell what it would do, or what is in its way.")
@click.option("--replace", is_flag=True, help="Write over what the store has otherwise.")
@click.option("--without", multiple=True, metavar="HOST", help="Do not ask this host what it runs; may be repeated.")
@pass_session
def restore(session: Session, file: str, dry_run: bool, replace: bool, without: Sequence[str]) -> None:
    """Bring the cluster's state back from a file. Refused if that would give one thing to two.

    It asks the engines of all hosts what they run. While it writes, nobody is given an address.
    """
    try:
        found = snapshot.read(Path(file).read_bytes(), file)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error
    settings = session.settings

    def ask(host: str, url: str) -> EngineView:
        return session.view(settings, "" if host == settings.host.name else url)

    with session.store() as store:
        restoring = Restore(store, settings.host.name, found.values, ask, without, session.now())
        done = restoring.plan(replace)
        if not dry_run:
            done = restoring.run()
    header = found.header
    click.echo(f"backup of {header.time}, revision {header.revision}, {header.keys} keys")
    _tell(done, dry_run)


def _tell(done: Done, dry_run: bool) -> None:
    for text in done.added:
        click.echo(f"{'would be added' if dry_run else 'added'}, for an engine has it: {text}")
    if dry_run:
        click.echo(f"{done.written} keys would be written; nothing is in the way")
        return
    click.echo(f"{done.written} keys written; next, on every host:\n  systemctl restart qnet.target")
