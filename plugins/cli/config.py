"""`qnet config`: the settings of this host: whether they make sense, what they are, and what they can be."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
import msgspec

from plugins.cli.output import json_option, printable, show_json, show_table
from plugins.cli.session import Session, pass_session
from qnet import settings
from qnet.options import toml
from qnet.reading import Reading

WIDTH = 100
HEAD = """\
The settings of qnet on this host. Every option is commented out and shows its default: take away the # of those that
you change. `qnet config check` tells what is wrong with this file, `qnet config show` what is in force. In the
environment QNET_SECTION_OPTION overrides an option, as QNET_ETCD_TIMEOUT=2."""
OPEN_TO_ALL = 0o007


@click.group()
def config() -> None:
    """The settings of this host."""


@config.command("check")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
@pass_session
def check(session: Session, ctx: click.Context, file: Path | None) -> None:
    """Tell what is wrong with a settings file.

    By default with the one of this host. Exit code 1 if anything is. Warns of files that it names and that are not
    there, and of keys that everybody can read.
    """
    found = settings.read(file or session.file)
    for mistake in found.mistakes:
        click.echo(printable(mistake), err=True)
    for warning in _warnings(found):
        click.echo(printable(f"warning: {warning}"), err=True)
    if found.mistakes:
        ctx.exit(1)
    click.echo(f"{file or session.file or _default_file()} is fine")


@config.command("show")
@json_option
@pass_session
def show(session: Session, as_json: bool) -> None:
    """Show every option, its value, and where that comes from."""
    loaded, sources = session.settings, settings.read(session.file).sources
    rows = [
        {
            "option": option.path,
            "value": msgspec.to_builtins(getattr(getattr(loaded, option.section), option.name)),
            "from": sources.get(option.path, "default"),
        }
        for option in settings.options()
    ]
    if as_json:
        show_json(rows)
    else:
        show_table(("OPTION", "VALUE", "FROM"), [(row["option"], toml(row["value"]), row["from"]) for row in rows])


@config.command("default")
def default() -> None:
    """Print a settings file with every option and its default."""
    click.echo("\n".join(_file()))


def _default_file() -> str:
    there = settings.DEFAULT_FILE.exists()
    return str(settings.DEFAULT_FILE) if there else f"there is no {settings.DEFAULT_FILE}; what is in the environment"


def _warnings(found: Reading) -> Iterator[str]:
    """Files of options that were given a value: those that are not there, and keys that everybody can read."""
    for option in settings.options():
        value = found.tree.get(option.section, {}).get(option.name)
        if not (option.told.get("file") and value and isinstance(value, str)):
            continue
        said = f"{found.sources[option.path]}: {option.path} is {toml(value)}"
        try:
            mode = Path(value).stat().st_mode
        except OSError as error:
            yield f"{said}: {os.strerror(error.errno or 0).lower()}"
            continue
        if option.told.get("secret") and mode & OPEN_TO_ALL:
            yield f"{said}: everybody can read it: chmod o= {value}"


def _file() -> Iterator[str]:
    yield from _comment(HEAD)
    for section, declared in settings.sections().items():
        yield from ("", *_comment(cleandoc(declared.__doc__ or "")), f"[{section}]")
        for option in settings.options():
            if option.section == section:
                bounds = f"Allowed are {option.allowed} {option.unit}".rstrip() + "."
                yield from (
                    "",
                    *_comment(option.meaning),
                    *_comment(bounds),
                    f"#{option.name} = {toml(option.default)}",
                )


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
