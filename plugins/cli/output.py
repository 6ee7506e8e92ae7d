"""How commands speak: tables and fields for people, JSON for programs, questions before what cannot be undone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import Any, TypeVar

import click
import msgspec

from plugins.cli.session import Session
from qnet.errors import InvalidRequest
from qnet.tenants import DEFAULT

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
WIDTH = 4096
EXACT = 10**6
UNITS = (("M", 10**6), ("G", 10**9), ("T", 10**12))
HUGE = 10**15
BINARY = ("", "K", "M", "G", "T", "P", "E")


def json_option(command: CommandT) -> CommandT:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def yes_option(command: CommandT) -> CommandT:
    """Give a command `--yes`."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


def tenant_option(command: CommandT) -> CommandT:
    """Give a command `--tenant` for the one that its object belongs to."""
    return click.option("--tenant", default=DEFAULT, show_default=True, help="Whose it is.")(command)


def show_json(value: object) -> None:
    """Print records as JSON: structs, dataclasses, lists and dicts of them."""
    builtin = msgspec.to_builtins(_whole(value), str_keys=True)
    click.echo(msgspec.json.format(msgspec.json.encode(builtin), indent=2))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their columns' names. Lines are never cut: they may be wider than the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell) or "-") for cell in row))
    buffer = StringIO()
    Console(file=buffer, width=WIDTH, force_terminal=sys.stdout.isatty()).print(table)
    click.echo("\n".join(line.rstrip() for line in buffer.getvalue().splitlines()))


def show_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line; empty values are left out."""
    for name, value in fields:
        if value:
            click.echo(f"{name + ':':<13} {printable(value)}")


def printable(text: str) -> str:
    """Text that others wrote, without what could steer the terminal."""
    return "".join(letter for letter in text if letter.isprintable())


def human(number: int) -> str:
    """A number that fits a column: exact below a million, then 16.8M, then 1.8e19."""
    if number < EXACT:
        return f"{number:,}"
    if number >= HUGE:
        return f"{number:.1e}".replace("e+", "e")
    unit, size = next((unit, size) for unit, size in reversed(UNITS) if number >= size)
    return f"{number / size:.1f}{unit}"


def binary(size: int) -> str:
    """Bytes in the units that sizes are given in: 3.2G is 3.2 * 2**30."""
    power = max(size.bit_length() - 1, 0) // 10
    return f"{size / 1024**power:.1f}{BINARY[power]}" if power else str(size)


def confirm(session: Session, question: str, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Raises:
        InvalidRequest: the answer was no, or there is nobody to ask.
    """
    if yes:
        return
    if not session.interactive():
        raise InvalidRequest(f"not done: {question} There is no terminal to ask on: add --yes")
    if not click.confirm(question, err=True):
        raise InvalidRequest("nothing done")


def _whole(value: object) -> object:
    """Structs with every field: what a record leaves out when it is stored, programs want to see."""
    if isinstance(value, msgspec.Struct):
        return {name: _whole(getattr(value, name)) for name in value.__struct_fields__ if name != "v"}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return value
