"""`qnet support-dump`: what a developer needs to see of this host and its cluster, in one file, without secrets."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import click
import msgspec

from plugins.cli.dump_parts import Part, parts
from plugins.cli.health import begun
from plugins.cli.output import binary, show_table
from plugins.cli.redaction import scrubbed
from plugins.cli.session import Session, pass_session
from qnet.errors import InvalidRequest, QnetError
from qnet.settings import Settings

PATIENCE = 60.0  # seconds for all parts together; they are made at the same time


@click.command("support-dump")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--lines", type=click.IntRange(1), default=5000, show_default=True, help="Lines of each unit's journal.")
@pass_session
def support_dump(session: Session, file: Path | None, lines: int) -> None:
    """Collect what a developer needs to see.

    It is written into FILE, a .tar.gz that only its owner can read, and listed; by default FILE is named after this
    host and the time. Keys, passwords, tokens, environment variables, command lines and the values of labels stay on
    this host; look through it all the same before you give it away.
    """
    try:
        settings = session.settings
    except QnetError:  # that is in it then; what can be collected without them is
        settings = Settings()
    name = f"qnet-{settings.host.name or os.uname().nodename}-{session.today():%Y%m%dT%H%M%SZ}"
    target = file or Path(f"{name}.tar.gz")
    found = _collected(parts(session, settings, lines), PATIENCE)
    _write(target, name, found)
    rows = [(part, text if isinstance(text, str) else binary(len(text))) for part, text in found.items()]
    show_table(("FILE", "BYTES, OR WHY IT IS MISSING"), rows)
    click.echo(f"written: {target}")


def _collected(wanted: Mapping[str, Part], patience: float) -> dict[str, bytes | str]:
    """What each part has, or as text why it is missing."""
    deadline = time.monotonic() + patience
    running = {name: begun(name, part) for name, part in wanted.items()}
    return {name: _result(part, deadline - time.monotonic()) for name, part in sorted(running.items())}


def _result(part: Future[str], patience: float) -> bytes | str:
    try:
        return scrubbed(part.result(max(0.0, patience))).encode(errors="replace")
    except TimeoutError:
        return "not done in time"
    except (QnetError, OSError, msgspec.MsgspecError) as error:
        return scrubbed(str(error))


def _write(target: Path, name: str, found: Mapping[str, bytes | str]) -> None:
    """Raises InvalidRequest: the file is there already, or cannot be written."""
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidRequest(f"cannot write {target}: {(error.strerror or str(error)).lower()}") from error
    missing = "".join(f"{part}: {why}\n" for part, why in found.items() if isinstance(why, str))
    with os.fdopen(file, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for part, text in {**found, "missing.txt": missing.encode()}.items():
            if isinstance(text, bytes):
                entry = tarfile.TarInfo(f"{name}/{part}")
                entry.size, entry.mode, entry.mtime = len(text), 0o600, int(time.time())
                archive.addfile(entry, io.BytesIO(text))
