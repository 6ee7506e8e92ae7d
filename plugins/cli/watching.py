"""What `qnet top` and `qnet volume top` do again and again: look at a daemon's metrics, tell what has changed since."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import click

from plugins.cli import unixhttp
from plugins.cli.output import show_json, show_table

PATIENCE = 10.0
UNITS = (("G", 10**9), ("M", 10**6), ("k", 10**3))

Sample = dict[tuple[str, ...], float]
Row = dict[str, Any]

once_option = click.option("--once", is_flag=True, help="Print one table and end.")
interval_option = click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, help="Seconds between looks."
)


def samples(socket: str, names: Collection[str]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """The metrics of these names that a daemon tells: name, labels, value. Raises Unavailable."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(unixhttp.read(socket, "/metrics", PATIENCE)):
        yield from ((one.name, one.labels, one.value) for one in family.samples if one.name in names)


def follow(
    look: Callable[[], Sample],
    rows: Callable[[Sample, Sample, float], list[Row]],
    columns: Sequence[str],
    cells: Callable[[Row], Iterator[str]],
    *,
    once: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Show a table of what `rows` makes of two looks and the seconds between them, until interrupted or once."""
    before, began = look(), time.monotonic()
    while True:
        time.sleep(interval)
        now, ended = look(), time.monotonic()
        found = rows(before, now, ended - began)
        before, began = now, ended
        if as_json:
            show_json(found)
            return
        if not once:
            click.clear()
        show_table(columns, (tuple(cells(row)) for row in found))
        if once:
            return


def human(amount: int) -> str:
    """An amount with one decimal of its unit."""
    unit, size = next(((unit, size) for unit, size in UNITS if amount >= size), ("", 1))
    return f"{amount / size:.1f}{unit}" if unit else str(amount)
